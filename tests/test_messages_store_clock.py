"""The database's clock steps backwards and is put right again: nothing is lost, nothing is unseen, no id comes twice, sends go on.

The store asks the time by `clock_timestamp()` and `now()`. In a database of its own these names mean functions that add a step, which a
test moves for all sessions at once; so every function, default and process of the store has the clock that was stepped.
"""

import random
import time
from datetime import timedelta

import pytest

from messages import services, storekeeper
from messages.types import NewMessage
from tests.store_world import bodies, copied_database, counts, new_group, new_id, pull, send, session, settle, sql, status
from tests.test_messages_store_torture import SEED, torture

OURS = """
    CREATE SCHEMA clock;
    CREATE SEQUENCE clock.step MINVALUE -1000000000000 START 0;
    CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS
    $$ SELECT pg_catalog.clock_timestamp() + (SELECT last_value FROM clock.step) * interval '1 ms' $$;
    CREATE FUNCTION clock.now() RETURNS timestamptz STABLE LANGUAGE sql AS
    $$ SELECT pg_catalog.now() + (SELECT last_value FROM clock.step) * interval '1 ms' $$;
    DO $$ DECLARE x record; BEGIN
      FOR x IN SELECT d.adrelid::regclass AS tab, a.attname
                 FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
                WHERE pg_get_expr(d.adbin, d.adrelid) IN ('now()', 'clock_timestamp()') LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT clock.clock_timestamp()', x.tab, x.attname);
      END LOOP;
    END $$;
    ALTER DATABASE "{name}" SET search_path = clock, pg_catalog, public;
"""


def step(seconds):
    """The clock is so far from the right time from now on."""
    sql("SELECT setval('clock.step', %s)", round(seconds * 1000))


@pytest.fixture(scope="module")
def own_clock(django_db_setup, django_db_blocker):
    """The database of the tests once more, with a clock of its own."""
    with django_db_blocker.unblock(), copied_database("clock") as name:
        with session() as opened:
            opened.execute(OURS.format(name=name))
        yield


@pytest.fixture
def topic(own_clock):
    services.tick()
    yield new_id()
    step(0)


def test_the_store_has_the_clock_that_the_test_sets(topic):
    group = new_group(topic)
    before = sql("SELECT pg_catalog.now()")
    step(-7200)
    send(topic, "x")
    (message,) = pull(group).messages
    assert message.sent_at < before - timedelta(hours=1)
    for statement in ("SELECT now()", "SELECT clock_timestamp()", "SELECT lease_until FROM mq_lease WHERE group_id = %s"):
        assert sql(statement, *([group] if "%s" in statement else [])) < before - timedelta(hours=1), statement


@pytest.mark.parametrize("back", [2, 3600, 3 * 86400])
def test_ids_go_on_upwards_and_the_horizon_with_them(topic, back):
    group = new_group(topic)
    ids = send(topic, "before")
    services.tick()
    step(-back)
    for number in range(3):
        ids += send(topic, f"after {number}")
        services.tick()
    assert bodies(pull(group)) == ["before", "after 0", "after 1", "after 2"]
    step(0)
    ids += send(topic, "right again")
    services.tick()
    assert bodies(pull(group)) == ["right again"]
    assert ids == sorted(set(ids))
    assert not services.health().clock_refused  # ids had not followed it, so there is nothing to jump over
    assert sql("SELECT closed_id FROM mq_horizon") >= ids[-1]


def test_a_sender_that_is_in_the_middle_of_the_step_is_waited_for(topic):
    group = new_group(topic)
    with session(autocommit=False) as slow:
        slow.execute("SELECT mq_append(%s, '{\"\"}', '{NULL}', '{NULL}', '{NULL}', '{slow}')", (topic,))
        step(-3600)
        send(topic, "quick")
        services.tick()
        assert pull(group).messages == []
        slow.commit()
    assert bodies(pull(group)) == ["slow", "quick"]


def test_a_delayed_message_comes_once_and_not_before_its_time_by_the_clock_of_the_database(topic):
    group = new_group(topic)
    due = sql("SELECT now()") + timedelta(hours=1)
    services.send(topic_id=topic, messages=[NewMessage(b"x", deliver_at=due)])
    step(-7200)
    services.promote()
    assert pull(group).messages == []
    for late, wanted in ((3599 - 7200, []), (3590, []), (3601, ["x"]), (-3600, []), (3700, [])):
        step(late)
        services.promote()
        services.tick()
        assert bodies(pull(group)) == wanted, late
    assert counts(group) == {"processing": 1}


def test_a_lease_is_settled_after_a_step_and_one_of_a_lost_worker_ends_later_but_ends(topic):
    group = new_group(topic)
    send(topic, "done", "lost")
    done, lost = pull(group, limit=1), pull(group, limit=1)
    step(-3600)
    assert services.extend(group_id=group, lease=done.lease, visibility_ms=1000) >= done.lease_until  # never shorter than it was
    assert [s.status for s in settle(group, done)] == ["succeeded"]
    services.expire()
    assert counts(group) == {"succeeded": 1, "processing": 1}
    step(61)  # its visibility, by the clock that is right again
    services.expire()
    again = pull(group)
    assert bodies(again) == ["lost"]
    assert {s.problem_code for s in settle(group, lost)} == {"lease_expired"}
    settle(group, again)
    assert counts(group) == {"succeeded": 2}


def test_a_retry_waits_for_the_clock_and_is_not_lost(topic):
    group = new_group(topic, backoff_ms=(60_000,))
    send(topic, "x")
    settle(group, pull(group), "failed")
    step(-3600)
    assert pull(group).messages == []
    assert counts(group) == {"later": 1}
    step(61)
    (message,) = pull(group).messages
    assert message.attempt == 2


def test_a_repeated_send_is_found_out_over_a_step(topic):
    message = NewMessage(b"x", producer_id="p-1")
    (first,) = services.send(topic_id=topic, messages=[message])
    step(-3600)
    sql("SELECT mq_purge_claims()")
    (second,) = services.send(topic_id=topic, messages=[message])
    assert (second.id, second.duplicate) == (first.id, True)


def test_upkeep_neither_drops_nor_makes_anything_twice(topic):
    group = new_group(topic)
    send(topic, "kept")
    with session() as keeper:  # an empty partition goes as soon as it is over
        while not storekeeper.Retention()(keeper):
            pass
    before = sql("SELECT count(*) FROM mq_partitions('mq_message')"), sql("SELECT partitioned_to FROM mq_horizon")
    step(-3 * 86400)
    with session() as keeper:
        for chore in (storekeeper.upkeep, storekeeper.cut, storekeeper.purge, storekeeper.drop_promoted, storekeeper.Retention()):
            chore(keeper)
    assert (sql("SELECT count(*) FROM mq_partitions('mq_message')"), sql("SELECT partitioned_to FROM mq_horizon")) == before
    assert bodies(pull(group)) == ["kept"]


def test_a_rewind_to_a_time_skips_nothing_over_a_step_as_time_servers_make_them(topic):
    """Up to its margin of 5 s: beyond it a time means two places of the log (docs/message-store.md)."""
    group = new_group(topic)
    for offset in (0, -4, -4, 0):
        step(offset)
        for _ in range(40):
            send(topic, "x")
        services.tick()
    sent = [(m.id, m.sent_at) for m in pull(group, limit=1000).messages]
    assert len(sent) == 160
    assert sorted(at for _id, at in sent) != [at for _id, at in sent]
    for _id, moment in sent[::7]:
        position = services.preview_reset(group_id=group, topic_id=topic, to=moment).position
        assert not [i for i, at in sent if at >= moment and i <= position]


def test_torture_while_the_clock_steps(topic):
    """Senders that roll back and workers that crash, as ever; the clock is stepped forth and back meanwhile by up to two days."""
    print(f"seed {SEED}")
    rng, until, made = random.Random(SEED), time.monotonic() + 3.0, []

    def tick():
        if time.monotonic() > until:
            step(0)  # put right: leases of lost workers end
        elif rng.random() < 0.1:
            made.append(rng.choice([0, 0, -0.3, -2, -60, -3600, -2 * 86400]))
            step(made[-1])
        services.tick()

    def take(topic, n, _rng):
        given = [a.id for a in services.send(topic_id=topic, messages=[NewMessage(b"x")] * n)]
        assert given == sorted(given)
        return given

    committed, acked, group = torture(send=take, tick=tick, seconds=3.0)
    assert len(set(made)) > 4
    assert len(committed) > 100
    lost = committed - acked.keys()
    told = {status(i, group).status for i in lost}
    assert not lost, f"{len(lost)} of {len(committed)} lost, they are {told}; seed {SEED}"
    assert acked.keys() - committed == set(), f"delivered although rolled back; seed {SEED}"
    assert {i: n for i, n in acked.items() if n > 1} == {}, f"acked twice; seed {SEED}"
    assert counts(group) == {"succeeded": len(committed)}
