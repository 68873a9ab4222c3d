"""Fixtures that all tests share; every part is real."""

import os

os.environ.setdefault("MQADMIN_SECRET_KEY", "a-key-for-tests-only-0123456789-0123456789-0123456789")
os.environ.setdefault("MQADMIN_ENCRYPTION_KEYS", "a2V5IGZvciB0ZXN0cyBvbmx5LCAzMiBieXRlcyAhISE=")
os.environ.setdefault("MQADMIN_ACCESS_LOG_LEVEL", "ERROR")
os.environ.setdefault("MQADMIN_RATE_LIMIT", "")  # tests ask faster than people; those of the limits set their own
os.environ.setdefault("MQADMIN_ANONYMOUS_RATE_LIMIT", "")
os.environ.setdefault("MQADMIN_DATA_RATE_LIMIT", "")
os.environ["MQADMIN_CACHE_DIR"] = ""  # no file remembers what other tests read at the same port

import contextlib
import gc
import uuid

import pytest
from django.conf import settings
from django.utils import translation
from kazoo.client import KazooClient
from pytest_django.plugin import blocking_manager_key

#: Modules that take longest, in this order; a worker that began one of them last would be waited for by all others.
LONGEST = (
    "console_browser", "registry_registrar", "system_operations", "supervisor_run", "api_fuzz", "registry_faults", "system_faults",
    "security_walk", "system_quickstart", "mqadmin_openapi", "console_pages", "supervisor_services", "messages_store_torture",
    "registry_instances", "sdk_mqctl", "sdk_example", "messages_store_model", "console_sorts", "query_counts", "benchmarks_dataset",
)  # fmt: skip


def pytest_collection_modifyitems(config, items):
    """Where several workers share the tests, each takes the next module in this order."""
    if hasattr(config, "workerinput"):
        rank = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(autouse=True, scope="session")
def rare_garbage_collection():
    """What is loaded stays: looking through it all again and again was a good part of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True, scope="session")
def quick_password_hashes():
    """Hashing slowly is for real passwords; here it would be most of the tests' time."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def language_of_the_settings():
    """A request in Chinese leaves its thread in Chinese."""
    yield
    translation.deactivate()


@pytest.fixture
def admin_person(db):
    from accounts.models import User

    return User.objects.create_superuser("alice", password="correct horse battery")


@pytest.fixture
def second_person(db):
    from accounts.models import User

    return User.objects.create_superuser("bob", password="correct horse battery")


@pytest.fixture
def person_without_rights(db):
    from accounts.models import User

    return User.objects.create_user("carol", password="correct horse battery")


def token_for(person):
    from datetime import timedelta

    from django.utils import timezone

    from accounts.models import ApiToken

    return ApiToken.issue(user=person, name="test", expires_at=timezone.now() + timedelta(hours=1))[1]


class Api:
    """A client of the REST API in the name of one person; answers are parsed JSON with their status."""

    def __init__(self, client, secret):
        self.client = client
        self.headers = {"Authorization": f"Token {secret}"} if secret else {}

    def __call__(self, method, path, body=None, **headers):
        # Django's client would send an empty form where there is no body.
        kwargs = {} if method in {"GET", "HEAD"} else {"data": "" if body is None else body, "content_type": "application/json"}
        response = getattr(self.client, method.lower())(f"/api/v1/{path}", headers={**self.headers, **headers}, **kwargs)
        if response.streaming:  # a file
            response.body = None
            return response
        response.body = response.json() if response.content and "json" in response.headers.get("Content-Type", "") else None
        return response

    def now(self, method, path, body=None, **headers):
        """Change what is there, whatever its version: read it first and send its ETag."""
        seen = self("GET", path).headers.get("ETag", '"1"')
        return self(method, path, body, **{"If-Match": seen, **headers})


@pytest.fixture
def api(admin_person):
    from django.test import Client

    return Api(Client(), token_for(admin_person))


@pytest.fixture
def api2(second_person):
    from django.test import Client

    return Api(Client(), token_for(second_person))


@pytest.fixture
def api_without_rights(person_without_rights):
    from django.test import Client

    return Api(Client(), token_for(person_without_rights))


@pytest.fixture
def api_anonymous(db):
    from django.test import Client

    return Api(Client(), "")


@pytest.fixture
def application(admin_person):
    from accounts.models import Application

    return Application.objects.create(name="order-service", owner=admin_person)


@pytest.fixture
def topic_fields(application):
    return {
        "application": "order-service",
        "expected_rate": 100,
        "message_bytes": 500,
        "partitions": 4,
        "ordered": False,
        "reason": "orders",
    }


@pytest.fixture
def zk_chroot():
    """A chroot of this test's own; gives the hosts string with it, and removes it afterwards."""
    base = settings.ZOOKEEPER_HOSTS.split("/", 1)[0]
    prefix = "/" + settings.ZOOKEEPER_HOSTS.split("/", 1)[1] if "/" in settings.ZOOKEEPER_HOSTS else ""
    path = f"{prefix}/test-{uuid.uuid4().hex[:12]}"
    client = KazooClient(hosts=base)
    client.start(timeout=15)
    client.ensure_path(path)
    try:
        yield base + path
    finally:
        client.delete(path, recursive=True)
        client.stop()
        client.close()


@pytest.fixture(scope="module")
def java(tmp_path_factory):
    """A JVM that reads properties and ZooKeeper: Java's own opinion."""
    from java_reader import Java

    reader = Java(tmp_path_factory.mktemp("java"))
    yield reader
    reader.end()


def template_database(run):
    """The name of a database with all migrations, made once in a run of several workers, for them to copy."""
    from django.db import connection
    from django.test.utils import setup_databases, teardown_databases

    test = connection.settings_dict["TEST"]
    own, template = test["NAME"], f"test_{connection.settings_dict['NAME']}_template"
    with connection._nodb_cursor() as admin:
        admin.execute("SELECT pg_advisory_lock(hashtext(%s))", [template])
        admin.execute("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [template])
        if admin.fetchone() != (run,):
            test["NAME"] = template
            made = setup_databases(verbosity=0, interactive=False, aliases={"default"}, serialized_aliases=())
            teardown_databases(made, verbosity=0, keepdb=True)
            test["NAME"] = own
            admin.execute(f"COMMENT ON DATABASE \"{template}\" IS '{run}'")
        admin.execute("SELECT pg_advisory_unlock(hashtext(%s))", [template])
    return template


def pytest_sessionfinish(session):
    """The template goes when all workers are through."""
    from django.db import OperationalError, connection

    if hasattr(session.config, "workerinput") or not getattr(session.config.option, "numprocesses", None):
        return
    unblock = session.config.stash[blocking_manager_key].unblock
    with contextlib.suppress(OperationalError), unblock(), connection._nodb_cursor() as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "test_{connection.settings_dict["NAME"]}_template"')


@pytest.fixture(scope="session")
def django_db_setup(  # noqa: PLR0917 - fixtures
    django_test_environment, django_db_blocker, django_db_use_migrations, django_db_keepdb, django_db_createdb, django_db_modify_db_settings
):
    """Always set the test database up when it is asked for: pytest-django's own looks for its marker only, and tests that
    commit (`store`, `world`) do without it; they would run in the developer's own database."""
    from django.db import connection
    from django.test.utils import setup_databases, teardown_databases

    kwargs = {"keepdb": True} if django_db_keepdb and not django_db_createdb else {}
    with django_db_blocker.unblock():
        if "PYTEST_XDIST_TESTRUNUID" in os.environ and not kwargs:
            connection.settings_dict["TEST"]["TEMPLATE"] = template_database(os.environ["PYTEST_XDIST_TESTRUNUID"])
        made = setup_databases(verbosity=0, interactive=False, aliases={"default"}, serialized_aliases=(), **kwargs)
        with connection.cursor() as cursor:  # tests that commit empty all tables behind themselves, with TRUNCATE
            cursor.execute("ALTER TABLE audit_auditentry DISABLE TRIGGER audit_no_truncate")
    yield
    if not django_db_keepdb:
        with django_db_blocker.unblock():
            teardown_databases(made, verbosity=0)


@pytest.fixture(scope="module")
def store(django_db_setup, django_db_blocker):
    """The message store on the test database, committing for real. Topics and groups are each test's own: only operations and audit go."""
    from django.db import connection

    with django_db_blocker.unblock():
        yield
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE operations_operation, audit_auditentry CASCADE")
        connection.close()


@pytest.fixture(autouse=True)
def every_write_is_audited(monkeypatch):
    """Whatever a test asks of the console or the API: what it changes must stand in the audit."""
    from tests import audited

    audited.install(monkeypatch)
