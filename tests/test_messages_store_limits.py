"""Time to live and maximum length of topics: who becomes a dead letter, who does not, and counts that stay exact meanwhile."""

import random
import threading
import time

import pytest
from messages_world import world  # noqa: F401 - a fixture

from accounts.models import User
from clusters.drivers import builtin
from clusters.models import Cluster
from core.approvals import workflow
from core.errors import Problem
from messages import services
from messages.types import DeadFilter, NewMessage, Outcome
from tests.store_world import Threads, bodies, counts, drive, expire_now, new_group, new_id, pull, redrive, send, settle, sql, status, until
from topics import services as topics
from topics.models import Topic

pytestmark = pytest.mark.usefixtures("store")


def limit(topic, *, ttl=0, length=0):
    builtin.set_limits(topic_id=topic, ttl_seconds=ttl, max_length=length)


def enforce(**chunk):
    """Of all topics; how many steps it took is no matter, other tests' topics have limits, too."""
    services.tick()
    services.enforce(**chunk)


def older(topic, ids, seconds=3600):
    """As if they had been sent so long ago."""
    sql("UPDATE mq_message SET sent_at = sent_at - %s * interval '1 s' WHERE topic_id = %s AND id = ANY (%s)", seconds, topic, ids)


def words(ids, group):
    return [status(i, group).status for i in ids]


@pytest.fixture
def topic():
    return new_id()


def test_what_a_group_has_not_taken_in_its_time_becomes_a_dead_letter_of_that_group_alone(topic):
    limit(topic, ttl=60)
    behind, ahead, other = new_group(topic), new_group(topic), new_group(topic, tag_expression="b")
    old = send(topic, "1", "2", tag="a") + send(topic, "3", tag="b")
    settle(ahead, pull(ahead))
    young = send(topic, "4", "5", tag="b")
    enforce()
    assert counts(behind) == {"waiting": 5}
    older(topic, old)
    enforce()
    assert words(old + young, behind) == ["dead", "dead", "dead", "waiting", "waiting"]
    assert words(old + young, ahead) == ["succeeded"] * 3 + ["waiting"] * 2
    assert words(old + young, other) == ["not_subscribed"] * 2 + ["dead", "waiting", "waiting"]
    assert (counts(behind), counts(other)) == ({"dead": 3, "waiting": 2}, {"dead": 1, "waiting": 2})
    assert [(c.cause, c.messages) for c in services.dead_causes(group_id=behind).items] == [("expired", 3)]
    dead = status(old[0], behind)
    assert (dead.last_error, dead.attempts, dead.consumer) == ("expired", 0, None)
    assert [e.event for e in services.trace(services.message(message_id=old[0])) if e.group_id == behind] == ["dead"]
    assert (bodies(pull(behind)), bodies(pull(other))) == (["4", "5"], ["4", "5"])
    enforce()
    assert (counts(behind), counts(other)) == ({"dead": 3, "processing": 2}, {"dead": 1, "processing": 2})


def test_without_a_limit_nothing_dies_however_old_or_many(topic):
    group = new_group(topic)
    older(topic, send(topic, *"abcdef"))
    enforce()
    assert counts(group) == {"waiting": 6}
    limit(topic, ttl=7200, length=6)
    enforce()
    assert counts(group) == {"waiting": 6}
    limit(topic, ttl=60, length=1)
    limit(topic)
    enforce()
    assert len(pull(group).messages) == 6


def test_a_pull_hands_out_nothing_that_has_expired_though_nobody_has_taken_it_out_yet(topic):
    group = new_group(topic, tag_expression="a || b")
    limit(topic, ttl=60)
    for start in range(0, 2500, 500):
        older(topic, send(topic, *map(str, range(start, start + 500)), tag="a"))
    young = send(topic, "young", tag="b")
    services.tick()
    sql("SELECT mq_age()")
    # the control: without the look of its pulls the group would get them
    sql("UPDATE mq_group SET limited = false WHERE group_id = %s", group)
    assert bodies(pull(group, limit=2)) == ["0", "1"]
    sql("UPDATE mq_group SET limited = true WHERE group_id = %s", group)
    assert [m.id for m in pull(group).messages] == young
    assert counts(group) == {"processing": 3, "dead": 2498}


def test_what_is_in_a_workers_hands_may_still_succeed_and_a_retry_that_is_too_old_is_not_handed_out(topic):
    group = new_group(topic, max_attempts=9)
    limit(topic, ttl=60)
    ids = send(topic, "in time", "fails", "postponed", "redriven")
    batch = pull(group)
    older(topic, ids)
    enforce()
    assert counts(group) == {"processing": 4}
    outcomes = [
        Outcome(i, w, delay_ms=60_000 if w == "later" else None) for i, w in zip(ids, ("succeeded", "failed", "later", "dead"), strict=True)
    ]
    assert [s.problem_code for s in services.settle(group_id=group, lease=batch.lease, outcomes=outcomes)] == [None] * 4
    assert pull(group).lease is None  # took out what failed, with nobody's help
    assert words(ids, group) == ["succeeded", "dead", "later", "dead"]
    assert status(ids[1], group).last_error == "expired"
    redrive(group, [ids[3]])  # a person wants it tried
    enforce()
    assert [m.id for m in pull(group).messages] == [ids[3]]
    sql("UPDATE mq_exception SET due_at = clock_timestamp() WHERE group_id = %s AND msg_id = %s", group, ids[2])
    enforce()
    assert status(ids[2], group).last_error == "expired"
    assert counts(group) == {"succeeded": 1, "dead": 2, "processing": 1}


def test_the_oldest_are_crowded_out_of_each_group_as_far_as_it_wants_them(topic):
    limit(topic, length=3)
    every, some, suspended = new_group(topic), new_group(topic, tag_expression="~[ab]"), new_group(topic)
    builtin.update_group(group_id=suspended, max_attempts=3, backoff_ms=[0], suspended=True)
    held = send(topic, "held", tag="a")
    services.tick()
    batch = pull(every)
    ids = [a.id for a in services.send(topic_id=topic, messages=[NewMessage(t.encode(), tag=t) for t in "abcabcabc"])]
    enforce(chunk=2)
    assert words(ids, every) == ["dead"] * 6 + ["waiting"] * 3
    assert [word for i, word in enumerate(words(ids, some)) if "abcabcabc"[i] != "c"] == ["dead"] * 3 + ["waiting"] * 3
    assert (counts(every), counts(some)) == ({"processing": 1, "dead": 6, "waiting": 3}, {"dead": 4, "waiting": 3})
    assert counts(suspended) == {"dead": 7, "waiting": 3}
    assert status(ids[0], every).last_error == "crowded_out"
    assert settle(every, batch)[0].status == "succeeded"
    enforce()
    assert words(held, some) == ["dead"]
    redrive(every, ids[:6])  # retries do not wait in the line
    enforce()
    assert len(pull(every).messages) == 9


def test_a_new_group_begins_behind_what_has_expired_and_no_rewind_brings_it_back(topic):
    limit(topic, ttl=60)
    first = new_group(topic)
    older(topic, old := send(topic, "1", "2"))
    young = send(topic, "3", "4")
    enforce()
    late = new_group(topic)
    assert words(old + young, late) == ["not_subscribed"] * 2 + ["waiting"] * 2
    assert bodies(pull(late)) == ["3", "4"]
    for group, repeated in ((late, 2), (first, 0)):
        plan = services.preview_reset(group_id=group, topic_id=topic, to="earliest")
        assert (plan.repeated, plan.succeeded, plan.dead) == (repeated, 0, 0)
    with pytest.raises(Problem) as refused:
        services.preview_reset(group_id=late, topic_id=topic, to=old[1])
    assert refused.value.code == "beyond_retention"
    assert int(refused.value.extra["earliest_id"]) > old[1]
    limit(topic)
    assert services.preview_reset(group_id=late, topic_id=topic, to=old[1]).first_time == 1


def test_a_filter_a_rewind_and_a_purge_go_on_over_what_was_taken_out(topic):
    limit(topic, length=2)
    group = new_group(topic, tag_expression="a")
    ids = [a.id for a in services.send(topic_id=topic, messages=[NewMessage(b"", tag=t) for t in "abababab"])]
    enforce()
    assert counts(group) == {"dead": 2, "waiting": 2}
    plan = services.preview_reset(group_id=group, topic_id=topic, to=ids[0])
    assert (plan.repeated, plan.dead) == (2, 2)
    made = services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)
    assert counts(group) == {"waiting": 4}
    enforce()
    assert counts(group) == {"dead": 2, "waiting": 2}
    with pytest.raises(Problem):  # it stands there again
        services.undo_reset(reset_id=made.pk)
    builtin.change_filter(group_id=group, topic_id=topic, tag_expression="*")
    enforce()
    assert words(ids, group) == ["dead", "not_subscribed", "dead", "dead", "dead", "dead", "waiting", "waiting"]
    drive(services.start_purge(group_id=group, only=DeadFilter(), reason="done with"))
    assert counts(group) == {"failed": 5, "waiting": 2}


def test_under_load_each_message_succeeds_or_dies_once_and_the_counts_are_exact(topic):
    limit(topic, ttl=1, length=150)
    groups = [new_group(topic, max_attempts=50, backoff_ms=(0, 5)), new_group(topic, tag_expression="~a|c", max_attempts=50)]
    sent, acked, lock, quiet = {}, {}, threading.Lock(), threading.Event()
    threads, end = Threads(), time.monotonic() + 3

    def sender(rng):
        while time.monotonic() < end:
            tags = rng.choices("abc", k=rng.choice([1, 5, 30]))
            ids = [a.id for a in services.send(topic_id=topic, messages=[NewMessage(b"", tag=t) for t in tags])]
            with lock:
                sent.update(zip(ids, tags, strict=True))
            time.sleep(rng.random() * 0.02)

    def worker(rng, group):
        while not quiet.is_set():
            batch = pull(group, limit=rng.choice([1, 10]), visibility_ms=2000)
            outcomes = [Outcome(m.id, rng.choices(["succeeded", "failed", "later"], [3, 1, 1])[0]) for m in batch.messages]
            for s in services.settle(group_id=group, lease=batch.lease, outcomes=outcomes) if outcomes else ():
                if s.status == "succeeded":
                    with lock:
                        acked[group, s.id] = acked.get((group, s.id), 0) + 1
            time.sleep(rng.random() * 0.05)

    def enforcer():
        while not quiet.is_set():
            enforce(chunk=20)
            time.sleep(0.02)

    for i in range(2):
        threads.start(sender, random.Random(i))
        threads.start(enforcer)
        for group in groups:
            threads.start(worker, random.Random(10 + i), group)
    until(lambda: time.monotonic() > end and not any(counts(g).keys() & {"waiting", "processing", "later"} for g in groups), 60)
    quiet.set()
    threads.join(60)
    for group in groups:
        expire_now(group)
        enforce()
    wanted = {groups[0]: set(sent), groups[1]: {i for i, t in sent.items() if t in "ac"}}
    assert set(acked.values()) == {1}
    for group, ids in wanted.items():
        ok = {i for g, i in acked if g == group}
        found = "SELECT s.status, array_agg(m.id) AS ids FROM mq_message m, mq_status(m.topic_id, m.id) s"
        word = sql(
            f"SELECT json_object_agg(s.status, s.ids) FROM ({found} WHERE m.topic_id = %s AND s.group_id = %s GROUP BY 1) s", topic, group
        )
        assert set(word.pop("N", ())) == sent.keys() - ids
        assert {letter: set(of) for letter, of in word.items()} == {"S": ok, "D": ids - ok}
        assert counts(group) == {"succeeded": len(ok), "dead": len(ids - ok)}
        causes = {c.cause: c.messages for c in services.dead_causes(group_id=group).items}
        assert causes.keys() <= {"expired", "crowded_out"}
        assert sum(causes.values()) == len(ids - ok) > 0


@pytest.fixture
def people(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        yield world


def test_limits_are_applied_for_approved_changed_and_shown(people):
    name = people.topic(approve=False).name
    assert people.api.now("PATCH", f"topics/{name}", {"ttl_seconds": 5, "max_length": 7}).body["max_length"] == 7
    topic = Topic.objects.get(name=name)
    assert sql("SELECT count(*) FROM mq_limit WHERE topic_id = %s", topic.pk) == 0
    topics.approve(actor=User.objects.get(username="zhou"), topic=topic, cluster=Cluster.objects.get(name="builtin"))
    assert sql("SELECT (ttl_s, max_length)::text FROM mq_limit WHERE topic_id = %s", topic.pk) == "(5,7)"
    browser = people.browser(people.admin)
    form = browser.get(f"/admin/topics/{name}/ask-change/").content.decode()
    assert 'name="ttl_seconds" value="5"' in form
    assert 'name="max_length" value="7"' in form
    assert "Time to live" in browser.get(f"/admin/topics/{name}/").content.decode()
    for wanted, kept in (({"ttl_seconds": 60}, "(60,7)"), ({"ttl_seconds": 0, "max_length": 0}, None)):
        asked = workflow.submit(actor=people.admin, kind="topic.change", target=name, payload=wanted, reason="tests")
        assert sql("SELECT (ttl_s, max_length)::text FROM mq_limit WHERE topic_id = %s", topic.pk) != kept
        workflow.approve(actor=User.objects.get(username="zhou"), request=asked, version=asked.version)
        assert sql("SELECT (ttl_s, max_length)::text FROM mq_limit WHERE topic_id = %s", topic.pk) == kept


@pytest.mark.parametrize(
    ("field", "value"), [("ttl_seconds", -1), ("ttl_seconds", 10**8), ("max_length", -1), ("max_length", 10**10), ("max_length", "5")]
)
def test_a_limit_is_a_number_within_bounds(people, field, value):
    answer = people.api.now("PATCH", f"topics/{people.topic(approve=False).name}", {field: value})
    assert (answer.status_code, answer.body["errors"][0]["pointer"]) == (400, f"/{field}"), answer.body
