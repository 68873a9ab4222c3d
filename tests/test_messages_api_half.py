"""Half messages over REST and in the console: who may, what is refused, what the audit keeps; where applications are asked."""

import pytest
from django.urls import reverse
from messages_world import world  # noqa: F401 - a fixture

from core.audit.models import AuditEntry
from messages import services
from messages.models import CheckBack
from messages.types import NewMessage
from tests.store_world import pull, sql
from topics import services as topics

pytestmark = pytest.mark.usefixtures("_committed")


@pytest.fixture
def _committed(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def topic(world):  # noqa: F811
    return world.topic()


def prepare(world, topic, **fields):  # noqa: F811
    response = world.api("POST", f"topics/{topic.name}/half-messages", {"body": "pay", **fields})
    assert response.status_code == 201, response.content
    return response.body


def refusal(response, status, code):
    assert (response.status_code, response.body["code"]) == (status, code), response.content


def entries(name):
    return list(AuditEntry.objects.filter(name=str(name)).values_list("kind", "action", "reason"))


def test_prepare_commit_and_again(world, topic):  # noqa: F811
    group = world.group(topic)
    half = prepare(world, topic, id="order-1", key="k", check_after_ms=5000)
    assert half == {"id": half["id"], "state": "half", "duplicate": False, "deliver_at": None}
    again = prepare(world, topic, id="order-1", key="k")
    assert again == {**half, "duplicate": True}
    shown = world.api("GET", f"messages/{half['id']}").body
    assert (shown["state"], shown["body"], shown["groups"]) == ("half", "pay", [])
    assert [m["id"] for m in world.api("GET", f"half-messages?topic={topic.name}").body["results"]] == [half["id"]]
    first = world.api("POST", f"half-messages/{half['id']}/commit", {})
    second = world.api("POST", f"half-messages/{half['id']}/commit", {})
    assert first.status_code == second.status_code == 200
    assert first.body == second.body
    assert (first.body["state"], first.body["decided_by"], first.body["producer_id"]) == ("committed", "wang", "order-1")
    refusal(world.api("POST", f"half-messages/{half['id']}/rollback", {}), 409, "already_committed")
    (got,) = pull(group.pk).messages
    assert (got.origin_id, got.id) == (half["id"], first.body["message_id"])
    assert world.api("GET", f"half-messages/{half['id']}").body == first.body
    assert world.api("GET", f"messages/{half['id']}").body["state"] == "accepted"


def test_roll_back_and_what_is_refused(world, topic):  # noqa: F811
    half = prepare(world, topic)["id"]
    at = f"half-messages/{half}"
    refusal(world.api("POST", f"{at}/commit", {"reason": "x"}), 400, "unknown_field")
    refusal(world.api_nobody("POST", f"{at}/commit", {}), 403, "forbidden")
    refusal(world.api_viewer("POST", f"{at}/decision", {"decision": "commit"}), 403, "forbidden")
    assert world.api("POST", f"{at}/rollback", {}).body["state"] == "rolled_back"
    refusal(world.api("POST", f"{at}/commit", {}), 409, "already_rolled_back")
    refusal(world.api("GET", f"messages/{half}"), 404, "not_found")
    refusal(world.api("POST", "half-messages/12345/commit", {}), 404, "not_found")
    refusal(world.api("POST", "half-messages/9999999999999999999/commit", {}), 404, "not_found")
    refusal(world.api("POST", f"topics/{topic.name}/half-messages", {"body": "x", "check_after_ms": 10}), 400, "invalid_check")
    refusal(world.api("POST", f"topics/{topic.name}/half-messages", {"body": "x", "tag": "a b"}), 400, "invalid_tag")
    refusal(world.api("GET", "half-messages?state=lost"), 400, "invalid")


def test_a_producer_asks_for_its_open_ones(world, topic):  # noqa: F811
    half = prepare(world, topic, headers={"a": "b"})["id"]
    sql("UPDATE mq_half SET prepared_at = prepared_at - interval '1 hour' WHERE id = %s", half)
    at = f"topics/{topic.name}/half-messages/open"
    (asked,) = world.api("POST", at, {"max": 5}).body["half_messages"]
    assert (asked["id"], asked["state"], asked["headers"]) == (half, "open", {"a": "b"})
    assert world.api("POST", at, {}).body == {"half_messages": []}
    refusal(world.api("POST", at, {"max": 501}), 400, "invalid")


def test_a_person_decides_with_a_reason_that_the_audit_keeps(world, topic):  # noqa: F811
    half = prepare(world, topic)["id"]
    sql("UPDATE mq_half SET state = 'U' WHERE id = %s", half)
    rows = world.api("GET", "half-messages?state=undecided").body["results"]
    assert half in [m["id"] for m in rows]
    body = {"decision": "commit", "reason": "the order exists"}
    tried = world.api("POST", f"half-messages/{half}/decision?dry_run=true", body)
    assert tried.status_code == 200, tried.content
    assert services.half_message(message_id=half).state == "undecided"
    for _ in range(2):
        assert world.api("POST", f"half-messages/{half}/decision", body).body["state"] == "committed"
    assert entries(half) == [("half message", "commit", "the order exists")]
    refusal(world.api("POST", f"half-messages/{half}/decision", {"decision": "rollback"}), 409, "already_committed")
    refusal(world.api("POST", f"half-messages/{half}/decision", {"decision": "maybe"}), 400, "invalid")


def test_a_topic_with_an_open_one_is_not_retired_and_one_that_is_gets_none(world, topic, monkeypatch):  # noqa: F811
    monkeypatch.setattr(topics, "check_nobody_uses", lambda **_kwargs: None)
    half = prepare(world, topic)["id"]
    response = world.api("POST", f"topics/{topic.name}/retirement", {"reason": "x"})
    refusal(response, 409, "half_messages_wait")
    assert response.body["half"] == 1
    type(topic).objects.filter(pk=topic.pk).update(state="retired")
    refusal(world.api("POST", f"half-messages/{half}/commit", {}), 409, "topic_not_active")
    assert world.api("POST", f"half-messages/{half}/rollback", {}).body["state"] == "rolled_back"


def test_where_an_application_is_asked(world, settings):  # noqa: F811
    settings.OUTBOUND_ALLOW = ["127.0.0.0/8"]
    at = "applications/shop/check-back"
    refusal(world.api("GET", at), 404, "not_found")
    refusal(world.api("PUT", at, {"url": "https://10.0.0.1/x"}), 400, "address_not_allowed")
    refusal(world.api("PUT", at, {"url": "http://127.0.0.1/x"}), 400, "address_not_allowed")
    made = world.api("PUT", at, {"url": "https://127.0.0.1/x"})
    assert made.status_code == 201, made.content
    assert made.body["secret"]
    assert made.body["secret"] not in world.api("GET", at).content.decode()
    refusal(world.api("PUT", at, {"url": "https://127.0.0.1/y"}), 428, "precondition_required")
    changed = world.api("PUT", at, {"url": "https://127.0.0.1/y"}, **{"If-Match": made.headers["ETag"]})
    assert (changed.status_code, changed.body["secret"], changed.body["changed"]) == (200, None, True)
    same = world.api("PUT", at, {"url": "https://127.0.0.1/y"}, **{"If-Match": changed.headers["ETag"]})
    assert (same.status_code, same.body["changed"]) == (200, False)
    renewed = world.api("POST", f"{at}/secret", {})
    assert renewed.status_code == 201
    assert CheckBack.objects.get().secret.reveal() == renewed.body["secret"] != made.body["secret"]
    assert world.api("DELETE", at, **{"If-Match": renewed.headers["ETag"]}).status_code == 204
    done = AuditEntry.objects.filter(kind="check-back", name="shop").order_by("pk").values_list("action", flat=True)
    assert list(done) == ["create", "change", "renew secret", "delete"]


def test_the_console_lists_and_decides(world, topic):  # noqa: F811
    group, browser = world.group(topic), world.browser(world.admin)
    ids = [prepare(world, topic, key=key, id=f"{key}-1")["id"] for key in ("first", "second")]
    sql("UPDATE mq_half SET state = 'U', error = 'The application answered 500.' WHERE id = ANY (%s)", ids)
    page = browser.get(reverse("admin:messages_half"), {"topic": topic.name, "state": "undecided"}).content.decode()
    assert all(word in page for word in ("first", "second-1", "The application answered 500.", "pay"))
    assert "half-messages/" in page
    form = browser.get(reverse("admin:messages_half_commit", args=[ids[0]])).content.decode()
    assert "first-1" in form
    refused = browser.post(reverse("admin:messages_half_commit", args=[ids[0]]), {"reason": ""})
    assert refused.status_code == 200
    assert services.half_message(message_id=ids[0]).state == "undecided"
    for at, message_id, state in (("commit", ids[0], "committed"), ("rollback", ids[1], "rolled_back")):
        done = browser.post(reverse(f"admin:messages_half_{at}", args=[message_id]), {"reason": "looked it up"})
        assert done.status_code == 302
        assert services.half_message(message_id=message_id).state == state
        assert entries(message_id) == [("half message", at, "looked it up")]
        assert browser.get(reverse(f"admin:messages_half_{at}", args=[message_id])).status_code == 409
    assert [m.key for m in pull(group.pk).messages] == ["first"]
    for state in ("committed", "rolled_back", "nonsense"):
        assert browser.get(reverse("admin:messages_half"), {"state": state, "cursor": "x"}).status_code == 200
    assert "first" in browser.get(reverse("admin:messages_half"), {"state": "committed"}).content.decode()
    open_one = services.prepare_half(topic_id=topic.pk, message=NewMessage(b"secret")).id
    assert "Half" in browser.get(reverse("admin:messages_detail", args=[open_one])).content.decode()
    assert browser.get(f"{reverse('admin:messages_list')}?topic={topic.name}&q={open_one}").status_code == 302


def test_the_console_sets_and_takes_away_where_an_application_is_asked(world, settings):  # noqa: F811
    settings.OUTBOUND_ALLOW = ["127.0.0.0/8"]
    browser, add = world.browser(world.admin), reverse("admin:messages_check_back_add")
    assert "10.1.1.1" in browser.post(add, {"application": "shop", "url": "https://10.1.1.1/x"}).content.decode()
    assert not CheckBack.objects.exists()
    done = browser.post(add, {"application": "shop", "url": "https://127.0.0.1/x"}, follow=True).content.decode()
    row = CheckBack.objects.get()
    assert row.secret.reveal() in done
    assert "already" in browser.post(add, {"application": "shop", "url": "https://127.0.0.1/x"}).content.decode()
    edit = reverse("admin:messages_check_back", args=[row.pk])
    assert row.url in browser.get(edit).content.decode()
    assert browser.post(edit, {"url": "https://127.0.0.1/y"}).status_code == 302
    assert row.secret.reveal() not in browser.get(reverse("admin:messages_check_backs")).content.decode()
    secret = reverse("admin:messages_check_back_secret", args=[row.pk])
    assert browser.get(secret).status_code == 200
    renewed = browser.post(secret, follow=True).content.decode()
    assert CheckBack.objects.get().secret.reveal() in renewed
    delete = reverse("admin:messages_check_back_delete", args=[row.pk])
    assert browser.get(delete).status_code == 200
    assert browser.post(delete, {"reason": ""}).status_code == 302
    assert not CheckBack.objects.exists()
