"""Ordered topics as people have them: applied for, allocated to the built-in store, stopped keys decided over REST and in the console."""

import pytest
from django.db import transaction
from messages_world import world  # noqa: F401 - fixture
from store_world import counts, pull, settle, sql

from consumers import services as consumers
from core.audit.models import AuditEntry
from messages import services
from registry.releases import Change
from topics import services as topics
from topics.models import Topic

pytestmark = pytest.mark.usefixtures("_committed")


@pytest.fixture
def _committed(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        yield


def made(world, *, scope="key", on_exhausted="stop_key"):  # noqa: F811
    """An ordered topic with a group of one attempt, and three messages."""
    topic = world.topic(approve=False)
    topics.edit(actor=world.admin, topic=topic, changes={"ordered": True, "order_scope": scope})
    topics.approve(actor=world.approver, topic=topic, cluster=world.builtin)
    group = world.group(topic, approve=False, max_attempts=1)
    consumers.edit(actor=world.admin, group=group, changes={"on_exhausted": on_exhausted})
    consumers.approve(actor=world.approver, group=group)
    messages = [{"body": name, "sharding_key": name[0]} for name in ("a1", "a2", "b1")]
    sent = world.api("POST", f"topics/{topic.name}/messages", {"messages": messages})
    assert sent.status_code == 201, sent.body
    services.tick()
    return topic, group


def stop(group):
    """The first message fails for good."""
    batch = pull(group.pk)
    first = batch.messages[0]
    settle(group.pk, batch, "failed", messages=[first], error="no such account")
    settle(group.pk, batch, messages=[m for m in batch.messages if m.sharding_key == "b"])
    return first.id


def test_an_ordered_topic_is_allocated_to_the_built_in_store(world):  # noqa: F811
    topic, group = made(world)
    assert [sql("SELECT ordering FROM mq_cursor WHERE group_id = %s", group.pk)] == [1]
    assert Topic.objects.get(pk=topic.pk).cluster == world.builtin
    whole, _group = made(world, scope="topic")
    assert sql("SELECT ordering FROM mq_topic WHERE topic_id = %s", whole.pk) == 2


def test_without_the_policy_the_message_becomes_a_dead_letter(world):  # noqa: F811
    _topic, group = made(world, on_exhausted="dead_letter")
    stop(group)
    assert counts(group.pk) == {"dead": 1, "succeeded": 1, "processing": 1}


def test_a_change_of_the_policy_reaches_the_store(world):  # noqa: F811
    _topic, group = made(world, on_exhausted="dead_letter")
    with transaction.atomic():
        consumers.alter(group=group, values={"on_exhausted": "stop_key"}, wanted=None, change=Change(author=None, message="x"))
    assert sql("SELECT stop_key FROM mq_group WHERE group_id = %s", group.pk) is True


def test_stopped_keys_are_listed_and_decided(world):  # noqa: F811
    topic, group = made(world)
    first = stop(group)
    address = f"consumer-groups/{group.name}/stopped-keys"
    listed = world.api("GET", address)
    assert listed.status_code == 200
    [one] = listed.body["results"]
    assert one | {"stopped_at": "…"} == {
        "message_id": first, "topic": topic.name, "sharding_key": "a", "key": None, "attempts": 1, "reason": "no such account",
        "consumer": "w", "stopped_at": "…", "held_back": 1,
    }  # fmt: skip
    ask = {"message_ids": [first, 7], "decision": "retry", "reason": "the account is there now"}
    done = world.api("POST", f"{address}/decisions", ask)
    assert (done.status_code, done.body["results"]) == (
        200,
        [{"message_id": first, "code": None}, {"message_id": 7, "code": "not_stopped"}],
    )
    entry = AuditEntry.objects.filter(name=group.name).order_by("-pk").first()
    assert (entry.action, entry.reason) == ("decide stopped keys", "the account is there now")
    assert world.api("GET", address).body["results"] == []
    retry = pull(group.pk)
    assert [m.id for m in retry.messages] == [first]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"decision": "forget"}, "/decision"),
        ({"reason": " "}, "/reason"),
        ({"message_ids": []}, "/message_ids"),
        ({"message_ids": ["1"]}, "/message_ids"),
        ({"message_ids": [2**63]}, "/message_ids"),
    ],
)
def test_a_wrong_decision_changes_nothing(world, change, pointer):  # noqa: F811
    _topic, group = made(world)
    first = stop(group)
    ask = {"message_ids": [first], "decision": "skip", "reason": "x"} | change
    answer = world.api("POST", f"consumer-groups/{group.name}/stopped-keys/decisions", ask)
    assert answer.status_code == 400
    assert answer.body["errors"][0]["pointer"].startswith(pointer)
    assert len(services.stopped_keys(group_id=group.pk)) == 1


def test_who_may_only_look_decides_nothing(world):  # noqa: F811
    _topic, group = made(world)
    first = stop(group)
    ask = {"message_ids": [first], "decision": "skip", "reason": "x"}
    address = f"consumer-groups/{group.name}/stopped-keys"
    assert world.api_viewer("GET", address).status_code == 200
    assert world.api_viewer("POST", f"{address}/decisions", ask).status_code == 403
    assert len(services.stopped_keys(group_id=group.pk)) == 1


def test_the_console_shows_stopped_keys_and_lets_them_go_on(world):  # noqa: F811
    _topic, group = made(world)
    browser = world.browser(world.admin)
    page = f"/admin/groups/{group.name}/"
    assert "Stopped keys" not in browser.get(page).content.decode()
    assert browser.get(f"{page}stopped/").status_code == 409
    first = stop(group)
    shown = browser.get(page).content.decode()
    assert "Stopped keys" in shown
    assert "no such account" in shown
    form = browser.get(f"{page}stopped/").content.decode()
    assert str(first) in form
    answer = browser.post(f"{page}stopped/", {"message_ids": [first], "decision": "skip", "reason": "nobody needs it"})
    assert (answer.status_code, answer["Location"]) == (302, page)
    assert counts(group.pk) == {"failed": 1, "succeeded": 1, "later": 1}
    assert [m.body for m in pull(group.pk).messages] == [b"a2"]
    assert "Stopped keys" not in browser.get(page).content.decode()


def test_an_ack_of_a_message_that_was_held_back_says_so(world):  # noqa: F811
    _topic, group = made(world)
    batch = world.api("POST", f"consumer-groups/{group.name}/pull", {"max": 10}).body
    first, second = (m["id"] for m in batch["messages"][:2])
    acks = [{"lease": batch["lease"], "id": first, "status": "failed"}, {"lease": batch["lease"], "id": second, "status": "succeeded"}]
    answer = world.api("POST", f"consumer-groups/{group.name}/acks", {"acks": acks}).body["acks"]
    assert (answer[0]["status"], answer[1]["problem"]["code"]) == ("later", "held_back")


def test_a_broadcast_group_stops_no_key(world):  # noqa: F811
    topic, _group = made(world)
    fields = {
        "application": "shop",
        "subscriptions": [{"topic": topic.name}],
        "reason": "x",
        "mode": "broadcast",
        "on_exhausted": "stop_key",
    }
    answer = world.api("POST", "consumer-groups", {"name": "loud_group", **fields})
    assert (answer.status_code, answer.body["errors"][0]["pointer"]) == (400, "/on_exhausted")
