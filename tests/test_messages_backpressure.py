"""Back-pressure: a group's ceiling of outstanding messages, a topic's ceiling of backlog; who sets them, and what is said at them."""

import threading

import pytest
from messages_world import statements, world  # noqa: F401 - fixtures

from clusters.drivers import builtin
from core.operations.models import Operation
from messages import backpressure, services, waiting
from messages.types import DeadFilter, Outcome
from tests.store_world import Threads, bodies, bury, counts, drive, expire_now, new_group, new_id, pull, send, settle, sql, until
from topics.models import Topic


@pytest.fixture(autouse=True)
def _committed(world, django_db_blocker):  # noqa: F811
    backpressure._rooms.clear()
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def lobby(monkeypatch):
    made = waiting.Lobby(10)
    monkeypatch.setattr(waiting, "lobby", lambda: made)
    yield made
    made.close()
    if made._listener is not None:
        made._listener.join(30)


@pytest.fixture
def topic():
    return new_id()


def limited(topic, ceiling, **fields):
    group = new_group(topic, **fields)
    builtin.set_ceiling(group_id=group, max_outstanding=ceiling)
    return group


@pytest.mark.django_db
def test_the_mark_has_the_database_prepared_for_this_module():
    assert True


def test_a_group_never_has_more_in_hand_than_its_ceiling_over_all_topics(topic):
    other = new_id()
    group = limited(topic, 5)
    builtin.subscribe(group_id=group, topic_id=other)
    send(topic, *"abcd"), send(other, *"efgh")
    services.tick()
    first = pull(group, limit=3)
    second = pull(group, limit=100)
    assert (len(first.messages), len(second.messages)) == (3, 2)
    assert (pull(group).lease, pull(group).reason) == (None, "outstanding")
    settle(group, first, "failed", messages=first.messages[:1])  # its retry counts, too
    assert [m.attempt for m in pull(group).messages] == [2]
    assert pull(group).reason == "outstanding"
    settled, batch = services.next(
        group_id=group,
        lease=second.lease,
        outcomes=[Outcome(m.id, "succeeded") for m in second.messages],
        limit=9,
        visibility_ms=1000,
        consumer="w",
    )
    assert ([s.problem_code for s in settled], len(batch.messages)) == ([None, None], 2)
    builtin.set_ceiling(group_id=group, max_outstanding=2)  # what is in hand stays there
    assert pull(group).reason == "outstanding"
    assert counts(group)["processing"] == 5
    builtin.set_ceiling(group_id=group, max_outstanding=0)
    assert len(pull(group).messages) == 1


def test_what_a_lost_worker_held_makes_room_when_its_lease_has_expired(topic):
    group = limited(topic, 2)
    send(topic, *"abc")
    services.tick()
    pull(group)
    assert pull(group).reason == "outstanding"
    expire_now(group)
    assert bodies(pull(group)) == ["a"]


def test_workers_at_once_do_not_get_beyond_the_ceiling_together(topic):
    group = limited(topic, 7)
    send(topic, *(str(i) for i in range(60)))
    services.tick()
    most, done = [], []

    def worker():
        from django.db import connection

        while True:
            batch = pull(group, limit=3)
            most.append(sql("SELECT sum(processing) FROM mq_cursor WHERE group_id = %s", group))
            done.extend(m.id for m in batch.messages)
            if batch.messages:
                settle(group, batch)
            elif batch.reason == "empty":
                break
        connection.close()

    threads = [threading.Thread(target=worker) for _ in range(6)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert max(most) <= 7
    assert len(set(done)) == len(done) == 60


def test_a_group_at_its_ceiling_wakes_nobody(topic):
    group, free = limited(topic, 1), new_group(topic)
    send(topic, *"ab")
    services.tick()
    batch = pull(group, limit=1)
    with waiting.connect() as listener:
        ready = "SELECT * FROM mq_ready(%s::bigint[])"
        assert listener.execute(ready, ([group, free],)).fetchall() == [(free,)]
        settle(group, batch)
        assert set(listener.execute(ready, ([group, free],)).fetchall()) == {(group,), (free,)}
        builtin.set_ceiling(group_id=group, max_outstanding=1)
        pull(group)
        builtin.update_group(group_id=group, max_attempts=3, backoff_ms=[0], suspended=True)
        assert (group,) in listener.execute(ready, ([group],)).fetchall()  # who waits is told that it is suspended


def test_who_waits_at_the_ceiling_goes_on_when_something_is_settled(topic, lobby):
    group = limited(topic, 1)
    send(topic, *"ab")
    services.tick()
    batch = pull(group, limit=1)
    assert pull(group).reason == "outstanding"
    threads, woken = Threads(), []
    threads.start(lambda: woken.append(waiting.wait(group, 30)))
    until(lambda: lobby.parked == 1, 30)
    settle(group, batch)
    threads.join(40)
    assert woken == [True]
    assert bodies(pull(group)) == ["b"]


@pytest.fixture
def pair(world):  # noqa: F811
    """A topic with a ceiling of 5, a group with one of 2."""
    topic = world.topic()
    group = world.group(topic)
    change(world, f"topics/{topic.name}", max_backlog=5)
    change(world, f"consumer-groups/{group.name}", max_outstanding=2)
    return topic.name, group.name


def change(world, path, **fields):  # noqa: F811
    """As a person does it: ask for the change, another approves."""
    now = world.api("GET", path).body
    keys = ("application", "owner", "reason") + (
        ("expected_rate", "message_bytes", "partitions", "ordered")
        if path.startswith("topics")
        else ("subscriptions", "consume_from", "max_attempts", "backoff_ms", "backoff_max_ms")
    )
    asked = world.api.now("PUT", path, {**{key: now[key] for key in keys}, **fields, "change_message": "tests"})
    assert asked.status_code == 202, asked.body
    from accounts.models import User
    from core.approvals import workflow
    from core.approvals.models import Request

    request = Request.objects.filter(target=now["name"]).latest("pk")
    workflow.approve(actor=User.objects.get(username="zhou"), request=request, version=request.version, reason="")
    assert {key: world.api("GET", path).body[key] for key in fields} == fields


def refused(response, code, ceiling, limit):
    assert (response.status_code, response.body["code"]) == (429, code), response.body
    assert (response.body["ceiling"], response.body["limit"]) == (ceiling, limit)
    assert int(response.headers["Retry-After"]) >= 1
    assert response.body["hint"]


def test_over_rest_each_refusal_says_which_ceiling(world, pair, lobby):  # noqa: F811
    topic, group = pair
    api, sends = world.api, f"topics/{topic}/messages"
    assert api("POST", sends, {"messages": [{"body": "x"}] * 4}).status_code == 201
    services.tick()
    found = api("POST", f"consumer-groups/{group}/pull", {"max": 10}).body
    assert len(found["messages"]) == 2
    refused(api("POST", f"consumer-groups/{group}/pull", {}), "too_many_outstanding", "max_outstanding", 2)
    refused(api("POST", f"consumer-groups/{group}/pull", {"wait_ms": 1}), "too_many_outstanding", "max_outstanding", 2)
    ack = {"lease": found["lease"], "acks": [{"id": found["messages"][0]["id"], "status": "succeeded"}], "max": 5}
    more = api("POST", f"consumer-groups/{group}/next", ack)
    assert (more.status_code, len(more.body["messages"])) == (200, 1)
    told = api("POST", f"consumer-groups/{group}/next", {})
    assert (told.status_code, told.body["reason"], told.headers["Retry-After"]) == (200, "outstanding", "2")
    # one waits; four more are room for a batch that begins below the ceiling
    backpressure._rooms.clear()
    assert api("POST", sends, {"messages": [{"body": "x"}] * 6}).status_code == 201
    refused(api("POST", sends, {"body": "x"}), "backlog_full", "max_backlog", 5)
    refused(api("POST", f"topics/{topic}/half-messages", {"body": "x"}), "backlog_full", "max_backlog", 5)
    assert api("POST", sends, {"body": "x", "delay_ms": 60_000}).status_code == 201  # is no backlog yet
    before = counts(sql("SELECT id FROM consumers_consumergroup WHERE name = %s", group))
    assert before["waiting"] == 7
    move = api("GET", f"consumer-groups/{group}/resets/preview?topic={topic}&to=latest").body
    api("POST", f"consumer-groups/{group}/resets", {"topic": topic, "position": move["position"], "fingerprint": move["fingerprint"]})
    backpressure._rooms.clear()
    assert api("POST", sends, {"body": "x"}).status_code == 201


@pytest.mark.parametrize("named", [True, False])
def test_a_redrive_to_a_topic_at_its_ceiling_waits_for_room_and_goes_on(world, named):  # noqa: F811
    topic = world.topic()
    group, other = world.group(topic), world.group(topic)
    bury(topic.pk, group.pk, "a", "b")
    services.tick()
    Topic.objects.filter(pk=topic.pk).update(max_backlog=2)  # and two wait for the other group
    plan = services.Plan(to="topic", topic_id=topic.pk if named else None)
    started = drive(services.start_redrive(group_id=group.pk, ids=None, only=DeadFilter(), plan=plan))
    assert (started.state, started.error_code, started.done) == ("running", "waiting", 0)
    assert "its ceiling is 2" in started.error
    settle(other.pk, pull(other.pk))
    Operation.objects.filter(pk=started.pk).update(not_before=None)  # its second is over
    done = drive(started)
    assert (done.state, done.done, done.failed) == ("succeeded", 2, 0)
    assert sorted(bodies(pull(group.pk))) == ["a", "b"]


def test_sends_below_the_ceiling_count_once_a_second_and_those_without_one_never(world, pair, statements):  # noqa: F811
    topic, _group = pair
    free = world.topic().name

    def one(name):
        return lambda: world.api("POST", f"topics/{name}/messages", {"body": "x"})

    one(topic)(), one(free)()
    assert statements(one(topic)) == statements(one(free))


def test_the_pages_of_group_and_topic_show_how_near_they_are(world, pair):  # noqa: F811
    topic, group = pair
    world.api("POST", f"topics/{topic}/messages", {"messages": [{"body": "x"}] * 6})
    services.tick()
    world.api("POST", f"consumer-groups/{group}/pull", {"max": 1})
    browser = world.browser(world.admin)
    page = browser.get(f"/admin/topics/{topic}/").content.decode()
    assert "wait for the group that is furthest behind" in page
    assert "producers are refused" in page
    page = browser.get(f"/admin/groups/{group}/").content.decode()
    assert "of 2</small>" in page
    assert "Outstanding at most" in page
    form = browser.get(f"/admin/groups/{group}/ask-change/").content.decode()
    assert 'name="max_outstanding" value="2"' in form
    form = browser.get(f"/admin/topics/{topic}/ask-change/").content.decode()
    assert 'name="max_backlog" value="5"' in form


@pytest.mark.parametrize("value", [-1, 10**12, "5", True, None])
def test_a_ceiling_is_a_number_within_bounds(world, value):  # noqa: F811
    pending, group = world.topic(approve=False), world.group(world.topic(), approve=False)
    for path, field in ((f"topics/{pending.name}", "max_backlog"), (f"consumer-groups/{group.name}", "max_outstanding")):
        answer = world.api.now("PATCH", path, {field: value})
        assert (answer.status_code, answer.body["errors"][0]["pointer"]) == (400, f"/{field}"), answer.body
        assert world.api.now("PATCH", path, {field: 7}).body[field] == 7
