"""The webhook of a group: asked for, checked, changed by request, its secret renewed; over REST and in the console."""

import json
from dataclasses import replace

import pytest
from conftest import Api, token_for
from console_world import make_world
from django.core.management import call_command
from django.test import Client

from consumers import push, services
from consumers.models import ConsumerGroup, PushSecret
from core.approvals.models import Request
from core.audit.models import AuditEntry
from messages import pushing

URL = "https://93.184.216.34/orders"  # an address, so that no test asks a resolver


@pytest.fixture
def world(db):
    return make_world()


@pytest.fixture
def api(world):
    return Api(Client(), token_for(world.people.alice))


@pytest.fixture
def bob(world):
    return Api(Client(), token_for(world.people.bob))


@pytest.fixture
def pushed(world):
    ConsumerGroup.objects.filter(pk=world.bill.pk).update(push_url=URL)
    world.bill.refresh_from_db()
    push.ensure_secret(world.bill)
    return world.bill


NEW = {
    "name": "hooked_group", "application": "order-service", "subscriptions": [{"topic": "order_topic"}], "reason": "bills",
    "push_url": URL, "push_concurrency": 8, "push_timeout_ms": 2000,
}  # fmt: skip


def test_a_group_is_applied_for_with_a_webhook_and_has_a_secret_when_it_is_approved(api, bob):
    made = api("POST", "consumer-groups", NEW)
    assert made.status_code == 201, made.body
    assert [made.body[key] for key in ("push_url", "push_concurrency", "push_timeout_ms")] == [URL, 8, 2000]
    assert not PushSecret.objects.exists()
    assert bob("POST", "consumer-groups/hooked_group/approval", {}).status_code == 200
    assert PushSecret.objects.get().secret.reveal()
    shown = api("GET", "consumer-groups/hooked_group/push").body
    assert (shown["url"], shown["concurrency"], shown["timeout_ms"], shown["delivery"]["state"]) == (URL, 8, 2000, "idle")
    assert shown["delivery"]["recent"] == {"since": None, "delivered": 0, "failed": 0, "failure_rate": None}


def test_it_is_changed_by_request_like_everything_else(api, bob, world):
    answer = api("POST", "requests", {"kind": "group.change", "target": "bill_group", "payload": {"push_url": URL}, "reason": "no workers"})
    assert answer.status_code == 201, answer.body
    assert [row["field"] for row in answer.body["diff"]] == ["push_url"]
    world.bill.refresh_from_db()
    assert world.bill.push_url == ""
    assert bob("POST", f"requests/{answer.body['id']}/approval", {}).status_code == 200
    world.bill.refresh_from_db()
    assert world.bill.push_url == URL
    assert push.signing_secrets(world.bill.pk)
    assert AuditEntry.objects.filter(kind="consumer group", action="change").latest("pk").after["push_url"] == URL


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://10.0.0.1/hook", "address_not_allowed"),
        ("https://127.0.0.1/hook", "address_not_allowed"),
        ("https://[::1]/hook", "address_not_allowed"),
        ("https://2130706433/hook", "address_not_allowed"),
        ("http://93.184.216.34/hook", "address_not_allowed"),
        ("https://user:secret@93.184.216.34/", "address_not_allowed"),
        ("ftp://93.184.216.34/", "address_not_allowed"),
        ("nonsense", "address_not_allowed"),
        ("https://no-such-name.invalid/", "address_not_found"),
    ],
)
def test_an_address_that_leads_inside_is_refused_wherever_it_is_entered(api, world, url, code):
    asked = {"kind": "group.change", "target": "bill_group", "payload": {"push_url": url}, "reason": "x"}
    put = {key: value for key, value in NEW.items() if key != "name"} | {"push_url": url}
    for method, path, body, pointer in (
        ("POST", "consumer-groups", {**NEW, "push_url": url}, "/push_url"),
        ("PUT", "consumer-groups/hooked_group", put, "/push_url"),
        ("POST", "requests", asked, "/payload/push_url"),
    ):
        answer = api(method, path, body)
        assert (answer.status_code, answer.body["code"]) == (400, code), answer.body
        assert [error["pointer"] for error in answer.body["errors"]] == [pointer]
        assert "secret" not in json.dumps(answer.body)
    assert not Request.objects.filter(target="hooked_group").exists()
    assert not Request.objects.filter(target="bill_group", kind="group.change").exists()


def test_the_service_itself_refuses_an_address_inside(world):
    """Whoever forgets to look the name up: what can be told without the network is."""
    from core.errors import Problem

    with pytest.raises(Problem, match="private network"):
        services.apply(
            actor=world.people.alice, name="hooked_group", application=world.application, owner=world.people.alice,
            consume_from="earliest", max_attempts=3, backoff_ms=0, backoff_max_ms=0, subscriptions=[("order_topic", "*")], reason="x",
            push_url="https://192.168.1.1/",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"), [("push_concurrency", 0), ("push_concurrency", 33), ("push_timeout_ms", 99), ("push_timeout_ms", 30_001)]
)
def test_limits_have_a_pointer(api, field, value):
    answer = api("POST", "consumer-groups", {**NEW, field: value})
    assert (answer.status_code, [error["pointer"] for error in answer.body["errors"]]) == (400, [f"/{field}"])
    asked = {"kind": "group.change", "target": "bill_group", "payload": {field: value}, "reason": "x"}
    answer = api("POST", "requests", asked)
    assert (answer.status_code, [error["pointer"] for error in answer.body["errors"]]) == (400, [f"/payload/{field}"])


def test_the_secret_is_renewed_and_shown_once(api, pushed):
    before = push.signing_secrets(pushed.pk)
    answer = api("POST", "consumer-groups/bill_group/push-secret", None, **{"Idempotency-Key": "once"})
    assert answer.status_code == 200, answer.body
    assert push.signing_secrets(pushed.pk) == [answer.body["secret"], *before]
    again = api("POST", "consumer-groups/bill_group/push-secret", None, **{"Idempotency-Key": "once"})
    assert again.body == {"group": "bill_group", "secret": None}
    entry = AuditEntry.objects.filter(action="renew secret").get()
    assert answer.body["secret"] not in json.dumps([entry.before, entry.after])
    stored = PushSecret.objects.filter(group=pushed).values_list("secret", "previous").get()
    assert all(answer.body["secret"] not in str(value) for value in stored)


def test_a_group_that_pulls_has_no_secret(api):
    answer = api("POST", "consumer-groups/bill_group/push-secret")
    assert (answer.status_code, answer.body["code"]) == (409, "no_webhook")
    assert api("GET", "consumer-groups/bill_group/push").body["delivery"]["state"] == "off"


def test_secrets_are_sealed_anew_with_the_others(pushed, settings):
    [secret] = push.signing_secrets(pushed.pk)
    settings.ENCRYPTION_KEYS = ["bmV3IGtleSBmb3IgdGVzdHMgb25seSwgMzIgYnl0ZXM=", *settings.ENCRYPTION_KEYS]
    call_command("rotate_encryption_keys", verbosity=0)
    settings.ENCRYPTION_KEYS = settings.ENCRYPTION_KEYS[:1]
    assert push.signing_secrets(pushed.pk) == [secret]


def test_the_console_asks_for_it_shows_how_it_goes_and_renews_the_secret(world, pushed):
    browser = Client()
    browser.force_login(world.people.alice)
    page = browser.get("/admin/groups/bill_group/").content.decode()
    assert URL in page
    assert "Nothing waits" in page
    form = browser.get("/admin/groups/bill_group/ask-change/").content.decode()
    assert f'value="{URL}"' in form
    renewed = browser.post("/admin/groups/bill_group/push-secret/", {"version": pushed.version}, follow=True)
    assert push.signing_secrets(pushed.pk)[0] in renewed.content.decode()
    assert push.signing_secrets(pushed.pk)[0] not in browser.get("/admin/groups/bill_group/").content.decode()


def test_the_console_refuses_an_address_at_its_field(world):
    browser = Client()
    browser.force_login(world.people.alice)
    fields = {
        "name": "hooked_group", "application": world.application.pk, "owner": world.people.alice.pk, "consume_from": "earliest",
        "max_attempts": "3", "backoff_ms": "0", "backoff_max_ms": "0", "push_url": "https://10.1.2.3/", "push_concurrency": "4",
        "push_timeout_ms": "1000", "reason": "x", "subscriptions-TOTAL_FORMS": "1", "subscriptions-INITIAL_FORMS": "0",
        "subscriptions-0-topic": "order_topic", "subscriptions-0-tags": "*",
    }  # fmt: skip
    page = browser.post("/admin/groups/apply/", fields).content.decode()
    assert "private network" in page
    assert not ConsumerGroup.objects.filter(name="hooked_group").exists()
    fields["push_url"] = URL
    assert browser.post("/admin/groups/apply/", fields).status_code == 302
    assert ConsumerGroup.objects.get(name="hooked_group").push_url == URL


def test_every_state_has_its_words(world, pushed, monkeypatch):
    browser = Client()
    browser.force_login(world.people.alice)
    real = pushing.state
    for word in set(pushing.STATES) - {"off"}:
        monkeypatch.setattr(pushing, "state", lambda group, word=word: replace(real(group), state=word, error="no route"))
        page = browser.get("/admin/groups/bill_group/").content.decode()
        assert "no route" in page
        assert ("celery -A mqadmin worker -Q push" in page) == (word == "unserved")
