"""A committed world for tests of messages: ids are closed only after a commit, so tests inside one transaction could pull nothing."""

import itertools
from types import SimpleNamespace

import psycopg
import pytest

_numbers = itertools.count(1)
STORE = [
    *("mq_message", "mq_delayed", "mq_lease", "mq_exception", "mq_history", "mq_group", "mq_cursor", "mq_span", "mq_topic", "mq_stat"),
    *("mq_producer_id", "mq_claim", "mq_redriven", "operations_operation", "mq_half", "mq_check_back", "mq_push"),
    *("mq_label", "mq_limit", "mq_producer", "mq_transaction", "mq_reset", "mq_undo", "mq_undo_exception"),
    *("mq_broadcast", "mq_broadcast_topic", "mq_instance", "mq_retention", "mq_worker", "mq_moved"),
]


@pytest.fixture
def statements(monkeypatch):
    """How many statements went to Postgres, those beside Django's wrapper included: `statements(work)` counts."""
    counted = [0]
    execute = psycopg.Cursor.execute

    def counting(self, *args, **kwargs):
        counted[0] += 1
        return execute(self, *args, **kwargs)

    monkeypatch.setattr(psycopg.Cursor, "execute", counting)

    def count(work):
        before = counted[0]
        work()
        return counted[0] - before

    return count


@pytest.fixture(scope="module")
def world(django_db_setup, django_db_blocker):
    """People with their API clients; `topic()` and `group()` make active ones under new names. All of it is removed in the end."""
    from conftest import Api, token_for
    from django.contrib.auth.models import Permission
    from django.db import connection
    from django.test import Client

    from accounts.models import Application, User
    from clusters.services import ensure_builtin
    from consumers import services as consumers
    from core.audit.models import AuditEntry
    from registry.models import Instance, Publication
    from topics import services as topics

    with django_db_blocker.unblock():
        builtin = ensure_builtin()
        admin = User.objects.create_superuser("wang", password="correct horse battery")
        approver = User.objects.create_superuser("zhou", password="correct horse battery")
        nobody = User.objects.create_user("nobody", password="correct horse battery")
        viewer = User.objects.create_user("viewer", password="correct horse battery")
        viewer.user_permissions.set(
            Permission.objects.filter(codename__in=["view_message", "view_redrive", "view_topic", "view_consumergroup"])
        )
        application = Application.objects.create(name="shop", owner=admin)

        def topic(cluster=builtin, *, approve=True):
            made = topics.apply(
                actor=admin,
                name=f"topic_{next(_numbers)}",
                application=application,
                owner=admin,
                expected_rate=1,
                message_bytes=100,
                partitions=1,
                ordered=False,
                reason="tests",
            )
            return topics.approve(actor=approver, topic=made, cluster=cluster) if approve else made

        def group(*bound, tags="*", approve=True, consume_from="earliest", max_attempts=3, backoff_ms=0, **fields):
            made = consumers.apply(
                actor=admin,
                name=f"group_{next(_numbers)}",
                application=application,
                owner=admin,
                consume_from=consume_from,
                max_attempts=max_attempts,
                backoff_ms=backoff_ms,
                backoff_max_ms=backoff_ms,
                subscriptions=[(t.name, tags) for t in bound],
                reason="tests",
                **fields,
            )
            return consumers.approve(actor=approver, group=made) if approve else made

        def browser(person):
            client = Client()
            client.force_login(person)
            return client

        secrets = {person.username: token_for(person) for person in (admin, nobody, viewer)}
        yield SimpleNamespace(
            admin=admin,
            approver=approver,
            builtin=builtin,
            viewer=viewer,
            nobody=nobody,
            secret=secrets["wang"],
            api=Api(Client(), secrets["wang"]),
            api_nobody=Api(Client(), secrets["nobody"]),
            api_viewer=Api(Client(), secrets["viewer"]),
            api_anonymous=Api(Client(), ""),
            browser=browser,
            topic=topic,
            group=group,
        )
        Publication.objects.exclude(path=builtin.zookeeper_path).delete()
        Instance.objects.all().delete()
        with connection.cursor() as cursor:
            tables = [User._meta.db_table, AuditEntry._meta.db_table, "django_session", *STORE]
            cursor.execute(f"TRUNCATE {', '.join(tables)} CASCADE")
