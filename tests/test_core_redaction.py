"""Secrets never reach the log or the audit: by name, by form, in whatever is posted."""

import io
import json
import logging

import pytest
import structlog
from django.conf import settings
from django.db import connection
from django.test import Client

from core.redaction import is_secret_name, redacted_text

MARK = "hunter2-4f8a1c"


@pytest.mark.parametrize(
    "name", ["password", "new_password1", "webhook_secret", "HTTP_AUTHORIZATION", "api_key", "apikey", "csrfmiddlewaretoken", "token"]
)
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["name", "key", "sharding_key", "tokens", "secretary", "password_changed_at", "monkey", 7, None])
def test_names_that_are_none(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "text",
    [
        f"postgres://mqadmin:{MARK}@db/x",
        f"Authorization: Token mq_{MARK}0123456789012345",
        f"{{'Authorization': 'Basic {MARK}'}}",
        f"Bearer {MARK}012345678901234567890",
        f"password={MARK}&x=1",
        f'{{"api_key": "{MARK}"}}',
        f"mq_{MARK}0123456789012345",
    ],
)
def test_forms_of_secrets(text):
    assert MARK not in redacted_text(text)


def test_what_is_no_secret_stays():
    for text in ("order-service asked for order_topic", "https://hooks.example.com/x?y=1", "the token is unknown", "10.0.0.1:9092"):
        assert redacted_text(text) == text


@pytest.fixture
def lines():
    """What the handler of production would write, as text."""
    from logging.config import DictConfigurator

    stream = io.StringIO()
    formatter = DictConfigurator(settings.LOGGING).configure_formatter(dict(settings.LOGGING["formatters"]["line"]))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def test_log_lines_carry_no_secret(lines):
    log = structlog.stdlib.get_logger("test.secrets")
    log.warning("said", password=MARK, headers={"Authorization": f"Token {MARK}", "Host": "here"}, nested=[{"client_secret": MARK}])
    logging.getLogger("foreign").error("connecting to %s", f"redis://:{MARK}@host/0")
    try:
        raise RuntimeError(f"postgres://u:{MARK}@db refused")  # noqa: TRY301 - to be logged
    except RuntimeError:
        log.exception("failed")
    text = lines.getvalue()
    assert "said" in text
    assert "here" in text
    assert "RuntimeError" in text
    assert MARK not in text


@pytest.mark.django_db
def test_what_is_posted_with_a_secret_leaves_it_nowhere(api, admin_person, lines):
    """Every form and endpoint that could take one: marked secrets go in, and no trace of them is in audit or log."""
    browser, marked = Client(), []
    browser.force_login(admin_person)

    def mark():
        marked.append(f"{MARK}-{len(marked)}-correct-horse")
        return marked[-1]

    browser.post("/admin/login/", {"username": "alice", "password": mark()})
    word = mark()
    browser.post("/admin/accounts/user/add/", {"username": "dora", "password1": word, "password2": word, "usable_password": "true"})
    browser.post(f"/admin/accounts/user/{admin_person.pk}/password/", {"password1": word, "password2": word, "usable_password": "true"})
    for path, body in (
        ("tokens", {"name": "ci", "password": mark(), "secret": mark()}),
        ("applications", {"name": "shop", "secret": mark(), "api_key": mark()}),
        ("applications/shop/keys", {"name": "k", "secret": mark()}),
        ("notification-targets", {"name": "hook", "kind": "webhook", "url": f"https://user:{mark()}@8.8.8.8/", "secret": mark()}),
        ("notification-targets", {"name": "hook", "kind": "webhook", "url": "https://8.8.8.8/", "secret": mark()}),
        ("clusters", {"name": "k", "kind": "kafka", "address": f"user:{mark()}@host:9092", "password": mark()}),
    ):
        api("POST", path, body)
    api("GET", "me", Authorization=f"Token mq_{mark()}")
    issued = api("POST", "tokens", {"name": "ci-2"})
    if issued.status_code == 201:
        marked += [value for key, value in issued.body.items() if key in {"token", "secret"} and isinstance(value, str)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(string_agg(a::text, ' '), '') FROM audit_auditentry a")
        audit = cursor.fetchone()[0]
    text = lines.getvalue()
    for secret in marked:
        assert secret not in audit
        assert secret not in text, [line for line in text.splitlines() if secret in line]
    assert len(marked) > 10
    assert json.dumps(MARK)[1:-1] not in audit
