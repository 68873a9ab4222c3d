"""Pull, settle, next, expire: one worker per message at a time, every outcome taken once, nothing in silence."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest
from django.db import connection

from clusters.drivers import builtin
from core.errors import Problem
from messages import services
from messages.types import Outcome
from tests.store_world import Threads, bodies, counts, expire_now, new_group, new_id, pull, send, settle, sql, status

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def topic():
    return new_id()


def test_two_workers_of_one_group_share_and_a_second_group_gets_all(topic):
    one, other = new_group(topic), new_group(topic)
    sent = send(topic, *(str(i) for i in range(500)))
    got = []

    def worker(name):
        while batch := pull(one, limit=7, consumer=name).messages:
            got.extend(m.id for m in batch)

    threads = Threads()
    for i in range(4):
        threads.start(worker, f"w{i}")
    threads.join()
    assert sorted(got) == sent
    assert [m.id for m in pull(other, limit=1000).messages] == sent


def test_a_settled_message_is_succeeded_by_whom_and_when(topic):
    group = new_group(topic)
    (message,) = send(topic, "x")
    before = status(message, group)
    assert (before.status, before.attempts) == ("waiting", 0)
    batch = pull(group, consumer="worker-7")
    during = status(message, group)
    assert (during.status, during.attempts, during.consumer, during.lease_until) == ("processing", 1, "worker-7", batch.lease_until)
    (settled,) = settle(group, batch)
    assert (settled.status, settled.problem_code) == ("succeeded", None)
    after = status(message, group)
    assert (after.status, after.attempts, after.consumer) == ("succeeded", 1, "worker-7")
    assert after.pulled_at == during.pulled_at
    assert after.settled_at > after.pulled_at
    assert counts(group) == {"succeeded": 1}


def test_failed_is_retried_after_the_groups_backoff_and_dead_at_the_limit(topic):
    group = new_group(topic, max_attempts=3, backoff_ms=(600, 800))
    (message,) = send(topic, "x")
    waits = []
    for attempt in (1, 2, 3):
        batch = pull(group)
        assert [m.attempt for m in batch.messages] == [attempt]
        (result,) = settle(group, batch, "failed", error=f"boom {attempt}")
        if attempt < 3:
            assert result.status == "later"
            now = status(message, group)
            assert (now.status, now.attempts, now.last_error, now.next_retry_at) == (
                "later",
                attempt,
                f"boom {attempt}",
                result.next_retry_at,
            )
            assert pull(group).messages == []
            waits.append(sql("SELECT extract(epoch FROM due_at - last_at)::float8 FROM mq_exception WHERE group_id = %s", group))
            time.sleep(waits[-1] + 0.01)
    assert waits == [0.6, 0.8]
    assert result.status == "dead"
    end = status(message, group)
    assert (end.status, end.attempts, end.last_error) == ("dead", 3, "boom 3")
    assert counts(group) == {"dead": 1}
    assert pull(group).reason == "empty"


def test_later_waits_as_asked_and_counts_no_attempt(topic):
    group = new_group(topic, max_attempts=1, backoff_ms=(60_000,))
    send(topic, "x")
    for _ in range(3):
        batch = pull(group)
        assert [m.attempt for m in batch.messages] == [1]
        assert settle(group, batch, "later", delay_ms=0)[0].status == "later"
    settle(group, pull(group), "later")
    assert pull(group).messages == []
    assert counts(group) == {"later": 1}


def test_dead_goes_to_the_dead_letters_at_once_with_its_reason(topic):
    group = new_group(topic)
    (message,) = send(topic, "x", key="k", tag="t")
    settle(group, pull(group, consumer="w9"), "dead", error="cannot be parsed")
    (letter,) = services.dead_letters(group_id=group).items
    assert (letter.id, letter.reason, letter.attempts, letter.key, letter.tag, letter.consumer) == (
        message,
        "cannot be parsed",
        1,
        "k",
        "t",
        "w9",
    )
    assert letter.first_failed_at == letter.last_failed_at
    assert services.message(message_id=letter.id).body == b"x"


def test_outcomes_may_come_one_by_one_and_mixed(topic):
    group = new_group(topic)
    ids = send(topic, *"abcdef")
    batch = pull(group)
    a, b, c, d, e, f = batch.messages
    settle(group, batch, messages=[d])
    assert [status(i, group).status for i in ids] == ["processing"] * 3 + ["succeeded"] + ["processing"] * 2
    mixed = [Outcome(a.id, "succeeded"), Outcome(b.id, "failed", 60_000, "e"), Outcome(c.id, "dead"), Outcome(e.id, "later", 60_000)]
    results = services.settle(group_id=group, lease=batch.lease, outcomes=mixed[::-1])
    assert [r.id for r in results] == [m.id for m in mixed[::-1]]
    assert [r.status for r in results] == ["later", "dead", "later", "succeeded"]
    assert counts(group) == {"succeeded": 2, "later": 2, "dead": 1, "processing": 1}
    settle(group, batch, messages=[f])
    assert [status(i, group).status for i in ids] == ["succeeded", "later", "dead", "succeeded", "later", "succeeded"]
    assert sql("SELECT count(*) FROM mq_lease WHERE group_id = %s", group) == 0


def test_every_refused_outcome_has_its_problem_and_changes_nothing(topic):
    group, stranger = new_group(topic), new_group(topic)
    send(topic, *"abc")
    batch, foreign = pull(group, limit=2), pull(stranger, limit=1)
    (outside,) = pull(group, limit=1).messages
    a, b = batch.messages
    assert [r.problem_code for r in settle(group, batch, messages=[a, a])] == [None, "already_settled"]
    assert [r.problem_code for r in settle(group, batch, messages=[a, outside, b])] == ["already_settled", "not_in_lease", None]
    assert [r.problem_code for r in settle(group, batch, "failed", messages=[a, b])] == ["already_settled"] * 2
    assert [r.problem_code for r in settle(group, batch, messages=[outside])] == ["lease_expired"]
    for lease in (foreign.lease, "0", "not a lease", "٣", "9" * 40, ""):
        results = services.settle(group_id=group, lease=lease, outcomes=[Outcome(outside.id, "succeeded"), Outcome(2**70, "succeeded")])
        assert {r.problem_code for r in results} <= {"lease_expired", "not_in_lease"}
        assert all(r.status is None and r.detail for r in results)
    assert counts(group) == {"succeeded": 2, "processing": 1}
    assert counts(stranger) == {"processing": 1, "waiting": 2}


def test_an_expired_lease_is_refused_even_before_it_is_swept(topic):
    group = new_group(topic)
    send(topic, "x")
    batch = pull(group, visibility_ms=30)
    time.sleep(0.05)
    assert [r.problem_code for r in settle(group, batch)] == ["lease_expired"]
    services.expire()
    assert [r.problem_code for r in settle(group, batch)] == ["lease_expired"]
    again = pull(group)
    assert bodies(again) == ["x"]
    assert [r.problem_code for r in settle(group, batch)] == ["lease_expired"]
    assert [r.problem_code for r in settle(group, again)] == [None]


def test_fault_03_next_settles_retried_messages_so_a_handler_that_succeeds_never_ends_dead(topic):
    group = new_group(topic, max_attempts=2)
    ids = send(topic, *"abcd")
    batch = pull(group)
    outcomes = [Outcome(m.id, "failed", error="once") if i % 2 else Outcome(m.id, "succeeded") for i, m in enumerate(batch.messages)]
    send(topic, "fresh")
    services.tick()
    _settled, batch = services.next(group_id=group, lease=batch.lease, outcomes=outcomes, limit=10, visibility_ms=60_000, consumer="w2")
    assert sorted((m.body, m.attempt) for m in batch.messages) == [(b"b", 2), (b"d", 2), (b"fresh", 1)]  # fresh and retried, one lease
    outcomes = [Outcome(m.id, "succeeded") for m in batch.messages]
    settled, batch = services.next(group_id=group, lease=batch.lease, outcomes=outcomes, limit=10, visibility_ms=60_000, consumer="w2")
    assert [s.problem_code for s in settled] == [None] * 3
    assert batch.lease is None
    assert counts(group) == {"succeeded": 5}
    retried = status(ids[1], group)
    assert (retried.status, retried.attempts, retried.consumer) == ("succeeded", 2, "w2")
    expire_now(group)
    assert counts(group) == {"succeeded": 5}


def test_fault_04_a_poison_message_that_crashes_its_worker_is_buried_alone(topic):
    group = new_group(topic, max_attempts=3)
    sent = send(topic, *(str(i) for i in range(10)))
    done, crashes = [], 0
    for _round in range(40):
        batch = pull(group)
        if not batch.messages:
            break
        if b"4" in {m.body for m in batch.messages}:  # the worker dies before it can settle anything
            crashes += 1
            expire_now(group)
        else:
            done += batch.messages
            settle(group, batch)
    assert sorted(m.id for m in done) == [i for i in sent if i != sent[4]]
    assert crashes == 1 + 3  # once with its batch, which costs nobody an attempt, then alone up to the limit
    (letter,) = services.dead_letters(group_id=group).items
    assert (letter.id, letter.attempts, letter.reason) == (sent[4], 3, "lease expired")
    assert counts(group) == {"succeeded": 9, "dead": 1}


def test_after_an_expiry_messages_are_handed_out_alone(topic):
    group = new_group(topic)
    send(topic, *"abc")
    pull(group)
    expire_now(group)
    send(topic, "fresh")
    taken = [bodies(pull(group, limit=50)) for _ in range(4)]
    assert taken == [["a"], ["b"], ["c"], ["fresh"]]


def test_a_message_pulled_alone_counts_its_crash(topic):
    group = new_group(topic, max_attempts=2)
    (message,) = send(topic, "x")
    pull(group, limit=100)  # more were asked for, it was the only one
    expire_now(group)
    assert status(message, group).attempts == 1
    pull(group)
    expire_now(group)
    assert status(message, group).status == "dead"


def test_expiry_takes_back_only_what_was_not_settled(topic):
    group = new_group(topic)
    send(topic, *"abc")
    batch = pull(group)
    settle(group, batch, messages=batch.messages[1:2])
    expire_now(group)
    assert counts(group) == {"succeeded": 1, "later": 2}
    assert [bodies(pull(group)) for _ in range(3)] == [["a"], ["c"], []]
    assert status(batch.messages[1].id, group).status == "succeeded"


def lease_until(group):
    both = "SELECT lease_until FROM mq_lease WHERE group_id = %s UNION ALL SELECT lease_until FROM mq_exception WHERE group_id = %s"
    return sql(f"SELECT max(lease_until) FROM ({both}) x", group, group)


def test_a_lease_is_extended_for_fresh_and_retried_messages_alike(topic):
    group = new_group(topic)
    first, second = send(topic, *"ab")
    settle(group, pull(group, limit=1), "failed")
    send(topic, "c")
    services.tick()
    batch = pull(group, visibility_ms=5_000)
    assert {m.attempt for m in batch.messages} == {1, 2}
    until = services.extend(group_id=group, lease=batch.lease, visibility_ms=3600_000)
    assert until > batch.lease_until + timedelta(minutes=50)
    assert {status(m.id, group).lease_until for m in batch.messages} == {until}
    assert services.extend(group_id=group, lease=batch.lease, visibility_ms=1) == until  # never shorter
    settle(group, batch, messages=batch.messages[:1])
    assert services.extend(group_id=group, lease=batch.lease, visibility_ms=7200_000) > until
    # past the time that the pull had given
    sql("UPDATE mq_lease SET lease_until = lease_until - interval '10 s' WHERE group_id = %s", group)
    sql("UPDATE mq_exception SET lease_until = lease_until - interval '10 s' WHERE group_id = %s", group)
    services.expire()
    assert {s.problem_code for s in settle(group, batch, messages=batch.messages[1:])} == {None}
    assert counts(group) == {"succeeded": 3}
    assert second > first


def test_what_is_no_live_lease_of_the_group_is_not_extended_and_nothing_changes(topic):
    group, stranger = new_group(topic), new_group(topic)
    send(topic, *"ab")
    expired, done, foreign = pull(group, limit=1), pull(group, limit=1), pull(stranger, limit=2)
    expire_now(group)
    again = pull(group, limit=1)
    settle(group, again)
    before = lease_until(group), lease_until(stranger)
    for lease in (expired.lease, done.lease, again.lease, foreign.lease, "0", "not a lease", "٣", "9" * 40, ""):
        with pytest.raises(Problem) as refused:
            services.extend(group_id=group, lease=lease, visibility_ms=60_000)
        assert (refused.value.code, refused.value.status, bool(refused.value.hint)) == ("lease_expired", 409, True)
    with pytest.raises(Problem) as refused:
        services.extend(group_id=new_id(), lease=foreign.lease, visibility_ms=60_000)
    assert refused.value.code == "lease_expired"
    assert (lease_until(group), lease_until(stranger)) == before
    assert {s.problem_code for s in settle(stranger, foreign)} == {None}


def test_a_retry_whose_lease_expires_keeps_what_its_worker_said_before(topic):
    group = new_group(topic, max_attempts=9)
    (message,) = send(topic, "x")
    settle(group, pull(group), "failed", error="no such customer")
    for _ in range(2):
        pull(group)
        expire_now(group)
    assert status(message, group).last_error == "no such customer; lease expired"


def test_an_expired_lease_is_not_extended_even_before_it_is_swept(topic):
    group = new_group(topic)
    send(topic, "x")
    batch = pull(group)
    sql("UPDATE mq_lease SET lease_until = clock_timestamp() - interval '1 ms' WHERE group_id = %s", group)
    with pytest.raises(Problem) as refused:
        services.extend(group_id=group, lease=batch.lease, visibility_ms=60_000)
    assert refused.value.code == "lease_expired"
    services.expire()
    assert counts(group) == {"later": 1}


def test_a_lease_lasts_twelve_hours_in_all(topic):
    group = new_group(topic)
    send(topic, "x")
    batch = pull(group)
    sql("UPDATE mq_lease SET pulled_at = pulled_at - interval '11 hours' WHERE group_id = %s", group)
    before = services.extend(group_id=group, lease=batch.lease, visibility_ms=3500_000)
    with pytest.raises(Problem) as refused:
        services.extend(group_id=group, lease=batch.lease, visibility_ms=3700_000)
    assert (refused.value.code, refused.value.status, bool(refused.value.hint)) == ("lease_too_long", 409, True)
    assert lease_until(group) == before
    with pytest.raises(Problem) as refused:
        services.extend(group_id=group, lease=batch.lease, visibility_ms=0)
    assert refused.value.code == "invalid_visibility"
    assert {s.problem_code for s in settle(group, batch)} == {None}


def test_kill_9_of_a_worker_process_mid_lease_loses_nothing(topic):
    group = new_group(topic)
    send(topic, *"abc")
    program = (
        "import django, sys, time; django.setup(); from messages import services;"
        f"b = services.pull(group_id={group}, limit=10, visibility_ms=2000, consumer='doomed');"
        "print(len(b.messages), flush=True); time.sleep(60)"
    )
    db = connection.settings_dict
    url = f"postgres://{db['USER']}:{db['PASSWORD']}@{db['HOST']}:{db['PORT']}/{db['NAME']}"
    env = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "mqadmin.settings"}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout.readline() == "3\n"
        worker.send_signal(signal.SIGKILL)
        worker.wait(10)
    assert pull(group).messages == []
    time.sleep(2.05)
    assert services.expire() >= 3
    got = []
    while batch := pull(group):
        if not batch.messages:
            break
        got += bodies(batch)
        settle(group, batch)
    assert sorted(got) == ["a", "b", "c"]
    assert counts(group) == {"succeeded": 3}


def test_a_suspended_group_hands_out_nothing_and_says_so_but_settles(topic):
    group = new_group(topic)
    send(topic, *"ab")
    batch = pull(group, limit=1)
    builtin.update_group(group_id=group, max_attempts=3, backoff_ms=[0], suspended=True)
    found = pull(group)
    assert (found.lease, found.messages, found.reason) == (None, [], "suspended")
    settled, found = services.next(
        group_id=group, lease=batch.lease, outcomes=[Outcome(batch.messages[0].id, "succeeded")], limit=1, visibility_ms=1000, consumer="w"
    )
    assert ([s.status for s in settled], found.reason) == (["succeeded"], "suspended")
    builtin.update_group(group_id=group, max_attempts=3, backoff_ms=[0], suspended=False)
    assert bodies(pull(group)) == ["b"]


def test_changed_settings_hold_for_what_is_already_in_workers_hands(topic):
    group = new_group(topic, max_attempts=5)
    send(topic, "x")
    batch = pull(group)
    builtin.update_group(group_id=group, max_attempts=1, backoff_ms=[0], suspended=False)
    assert settle(group, batch, "failed")[0].status == "dead"


@pytest.mark.parametrize(
    ("limit", "visibility", "code"),
    [(0, 1000, "invalid_limit"), (1001, 1000, "invalid_limit"), (1, 0, "invalid_visibility"), (1, 10**9, "invalid_visibility")],
)
def test_it_refuses_a_pull_out_of_bounds(topic, limit, visibility, code):
    group = new_group(topic)
    with pytest.raises(Problem) as refused:
        pull(group, limit=limit, visibility_ms=visibility)
    assert refused.value.code == code


def test_it_refuses_a_group_that_the_store_does_not_know():
    with pytest.raises(Problem) as refused:
        pull(new_id())
    assert refused.value.code == "not_found"


@pytest.mark.parametrize("outcome", [Outcome(1, "acked"), Outcome(1, "failed", delay_ms=-1), Outcome(1, "later", delay_ms=10**15)])
def test_it_refuses_an_outcome_that_makes_no_sense(topic, outcome):
    group = new_group(topic)
    with pytest.raises(Problem) as refused:
        services.settle(group_id=group, lease="1", outcomes=[outcome])
    assert refused.value.code == "invalid_outcome"


def test_an_error_text_is_kept_up_to_a_limit_and_may_hold_anything(topic):
    group = new_group(topic)
    send(topic, "x")
    settle(group, pull(group), "dead", error="nul\x00 lone \ud800 " + "x" * 5000)
    reason = services.dead_letters(group_id=group).items[0].reason
    assert reason.startswith("nul lone ? x")
    assert len(reason) == 2000


def test_a_group_that_cannot_be_expired_holds_up_no_other(topic):
    bad, good = new_group(topic), new_group(topic)
    (message,) = send(topic, "x")
    pull(bad), pull(good)
    sql("INSERT INTO mq_exception (group_id, msg_id, topic_id, attempts, status) VALUES (%s, %s, %s, 1, 'F')", bad, message, topic)
    expire_now(bad)  # would need a second exception for the message
    expire_now(good)
    assert counts(bad) == {"processing": 1}
    assert counts(good) == {"later": 1}
    sql("DELETE FROM mq_lease WHERE group_id = %s", bad)
