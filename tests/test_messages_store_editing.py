"""Edit on redrive: to a topic, or to the one group that had given the message up, and to no other."""

import pytest

from clusters.drivers import builtin
from core.errors import Problem
from messages import editing, redrives, services
from messages.models import Redrive
from messages.types import DeadFilter, NewMessage
from tests.store_world import Threads, bodies, bury, counts, new_group, new_id, pull, redrive, settle, sql, status

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture(autouse=True)
def _any_topic(monkeypatch):
    """The store alone knows no topics of people: all take messages."""
    monkeypatch.setattr(redrives, "open_topics", lambda _actor, ids: list(ids))
    monkeypatch.setattr(editing, "open_topics", lambda _actor, ids: list(ids))


def edited(group, message_id, plan=None, **fields):
    return services.redrive_edited(group_id=group, message_id=message_id, edit=services.Edit(**fields), plan=plan)


def one_dead(topic, group, **fields):
    (a,) = services.send(topic_id=topic, messages=[NewMessage(b"wrong", **fields)])
    settle(group, pull(group), "dead", error="no such customer")
    return a.id


def test_to_the_group_it_is_that_group_alone_that_gets_it_edited():
    topic = new_id()
    group, other = new_group(topic), new_group(topic)
    dead = one_dead(topic, group, key="k", tag="paid", headers={"h": "1"})
    settle(other, pull(other))
    done = edited(group, dead, body=b"right")
    services.tick()
    assert pull(other).messages == []
    (got,) = (batch := pull(group)).messages
    assert (got.id, got.body, got.key, got.tag, got.topic) == (done.new_id, b"right", "k", "paid", str(topic))
    assert got.headers == {"h": "1", "mq-redriven-from": str(dead), "mq-redriven-group": str(group)}
    assert (status(dead, group).status, status(dead, group).last_error) == ("failed", "no such customer; redriven, edited")
    assert [s.group_id for s in services.message_status(message_id=got.id)] == [group]
    assert counts(group) == {"failed": 1, "processing": 1}
    assert services.counts_by_topic(group_id=group).keys() == {topic}
    assert [result.status for result in settle(group, batch)] == ["succeeded"]
    assert status(got.id, group).status == "succeeded"
    assert counts(group) == {"failed": 1, "succeeded": 1}
    assert services.message(message_id=got.id).topic == str(topic)
    assert services.search(topic_id=topic, message_id=got.id).items[0].body == b"right"


def test_what_fails_again_is_a_dead_letter_of_its_topic_and_may_be_edited_once_more():
    topic = new_id()
    group = new_group(topic, max_attempts=1)
    first = edited(group, one_dead(topic, group), body=b"better")
    services.tick()
    settle(group, pull(group), "failed", error="still no such customer")
    (letter,) = services.dead_letters(group_id=group, only=DeadFilter(topic_id=topic)).items
    assert (letter.id, letter.topic) == (first.new_id, str(topic))
    second = edited(group, letter.id, body=b"best")
    assert second.new_topic_id == first.new_topic_id
    services.tick()
    settle(group, pull(group), "dead")
    done = redrive(group, [second.new_id], to="topic")  # goes to the topic that people know
    assert done.done == 1
    assert Redrive.objects.get(message_id=second.new_id).new_topic_id == topic
    services.tick()
    assert bodies(pull(group)) == ["best"]


def test_to_a_topic_all_its_groups_get_it():
    topic, elsewhere = new_id(), new_id()
    group, other = new_group(topic), new_group(topic, elsewhere)
    dead = one_dead(topic, group)
    settle(other, pull(other))
    edited(group, dead, services.Plan(to="topic"), tag="t", key=None, headers={})
    services.tick()
    for reader in (group, other):
        (got,) = (batch := pull(reader)).messages
        assert (got.body, got.tag) == (b"wrong", "t")
        settle(reader, batch, "dead")
    edited(group, got.id, services.Plan(to="topic", topic_id=elsewhere))
    services.tick()
    assert len(pull(other).messages) == 1
    assert pull(group).messages == []


def test_it_is_refused_when_it_is_no_longer_dead_and_sends_nothing():
    topic = new_id()
    group = new_group(topic)
    dead = one_dead(topic, group)
    edited(group, dead, body=b"x")
    before = sql("SELECT count(*) FROM mq_redriven")
    with pytest.raises(Problem) as refused:
        edited(group, dead, body=b"y")
    assert (refused.value.code, refused.value.status) == ("not_dead", 409)
    assert sql("SELECT count(*) FROM mq_redriven") == before


def test_of_two_people_who_edit_one_message_one_wins():
    topic = new_id()
    group = new_group(topic)
    dead = one_dead(topic, group)
    won, lost = [], []

    def work(body):
        try:
            won.append(edited(group, dead, body=body))
        except Problem as problem:
            lost.append(problem.code)

    threads = Threads()
    for body in (b"a", b"b", b"c"):
        threads.start(work, body)
    threads.join()
    assert (len(won), lost) == (1, ["not_dead"] * 2)
    assert counts(group) == {"failed": 1, "waiting": 1}


@pytest.mark.parametrize(
    "leave",
    [
        builtin.unsubscribe,
        lambda group_id, topic_id: builtin.retire_topic(topic_id=topic_id),
        lambda group_id, topic_id: builtin.retire_group(group_id=group_id),
    ],
    ids=["unsubscribe", "retire the topic", "retire the group"],
)
def test_who_leaves_the_topic_gets_the_edited_ones_no_more(leave):
    topic = new_id()
    group = new_group(topic)
    dead, again = one_dead(topic, group), one_dead(topic, group)
    edited(group, dead, body=b"x")
    services.tick()
    leave(group_id=group, topic_id=topic)
    assert pull(group).messages == []
    assert counts(group) == {"failed": 1, "skipped": 1, "dead": 1}
    with pytest.raises(Problem) as refused:
        edited(group, again, body=b"y")
    assert refused.value.code in {"not_subscribed", "group_retired"}


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"tag": "a b"}, "invalid_tag"), ({"key": ""}, "invalid_text"), ({"body": b"x" * 2_000_000}, "body_too_large")],
    ids=["tag", "key", "body"],
)
def test_what_could_not_be_sent_is_refused_and_changes_nothing(fields, code):
    topic = new_id()
    group = new_group(topic)
    (dead,) = bury(topic, group, "a")
    with pytest.raises(Problem) as refused:
        edited(group, dead, **fields)
    assert refused.value.code == code
    assert all(not error.pointer.startswith("/messages") for error in refused.value.errors)
    assert counts(group) == {"dead": 1}
