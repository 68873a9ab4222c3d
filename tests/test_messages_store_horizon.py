"""The horizon: what is closed is complete. Each fault of the laboratory version has a test; negative controls show that they can fail."""

import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.db import connection, transaction

from messages import services, storekeeper
from messages.checks import store_settings
from messages.storekeeper import Storekeeper, drop_promoted, upkeep
from tests.store_world import Threads, bodies, new_group, new_id, pull, send, session, sql, until

pytestmark = pytest.mark.usefixtures("store")

ACTIVE = (  # the active storekeeper of this database: tests run beside others
    "pg_locks JOIN pg_database d ON d.oid = database"
    " WHERE locktype = 'advisory' AND objid = 7310000 AND granted AND d.datname = current_database()"
)
INSERT = "INSERT INTO mq_message (topic_id, id, body) VALUES (%s, %s, 'slow')"


def append(opened, topic, body="slow"):
    """One message by the append function in another session; its id."""
    statement = "SELECT mq_append(%s, '{\"\"}', '{NULL}', '{NULL}', '{NULL}', ARRAY[%s::bytea])"
    return opened.execute(statement, (topic, body.encode())).fetchone()[0][0]


@pytest.fixture
def topic():
    return new_id()


def test_a_slow_sender_is_not_overtaken(topic):
    group = new_group(topic)
    with session(autocommit=False) as slow:
        message = append(slow, topic)
        send(topic, "quick")
        for _ in range(3):
            services.tick()
            assert sql("SELECT closed_id FROM mq_horizon") < message
            assert pull(group).messages == []
        slow.commit()
    assert bodies(pull(group)) == ["slow", "quick"]


def test_fault_01_negative_control_an_id_drawn_before_the_lock_is_lost(topic):
    group = new_group(topic)
    with session(autocommit=False) as wrong:
        drawn = wrong.execute("SELECT nextval('mq_id_seq')").fetchone()[0]
        send(topic, "quick")
        assert bodies(pull(group)) == ["quick"]
        wrong.execute(INSERT, (topic, drawn))  # takes the lock too late
        wrong.commit()
    assert pull(group).messages == []  # committed, and nobody will ever get it


def test_negative_control_closing_at_the_last_value_without_the_lock_check_loses_a_message(topic):
    group = new_group(topic)
    with session(autocommit=False) as slow:
        append(slow, topic)
        send(topic, "quick")
        sql("UPDATE mq_horizon SET closed_id = (SELECT last_value FROM mq_id_seq)")
        assert bodies(pull(group)) == ["quick"]
        slow.commit()
    assert pull(group).messages == []


def test_the_horizon_does_not_wait_for_transactions_that_send_nothing(topic):
    group = new_group(topic)
    with session(autocommit=False) as other:
        other.execute("CREATE TEMP TABLE busy (i int)")  # has a transaction id, stays open
        other.execute("SELECT count(*) FROM mq_message WHERE topic_id = %s", (topic,))
        send(topic, "x")
        assert bodies(pull(group)) == ["x"]


def test_senders_that_overlap_all_the_time_do_not_hold_the_horizon_for_ever(topic):
    group = new_group(topic)
    first, second = session(autocommit=False), session(autocommit=False)
    with first, second:
        append(first, topic, "0")
        for i in range(1, 6):  # there is never a moment without an open sender
            append(second, topic, str(i))
            services.tick()
            first.commit()
            services.tick()
            first, second = second, first
        seen = bodies(pull(group))
        assert seen[:4] == ["0", "1", "2", "3"]
        first.commit()
    assert seen + bodies(pull(group)) == [str(i) for i in range(6)]


def test_it_refuses_to_tick_inside_a_transaction_that_has_sent(topic):
    with transaction.atomic():
        send(topic, "mine")
        assert services.tick() is None
        with pytest.raises(Exception, match="transaction of its own"), transaction.atomic():
            sql("SELECT mq_tick()")


@pytest.mark.parametrize("parent", ["mq_message", "mq_history", "mq_delayed"])
def test_fault_02_an_insert_into_a_leaf_partition_is_refused(parent):
    with session() as opened:
        leaf = opened.execute("SELECT partition::text FROM mq_partitions(%s) LIMIT 1", (parent,)).fetchone()[0]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            opened.execute(f"INSERT INTO {leaf} DEFAULT VALUES")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), opened.cursor().copy(f"COPY {leaf} FROM STDIN"):
            pass


def test_fault_02_the_system_check_demands_its_settings():
    assert store_settings(databases=["default"]) == []
    with transaction.atomic():
        sql("ALTER SEQUENCE mq_id_seq CACHE 5")
        assert [e.id for e in store_settings(databases=["default"])] == ["mq.E002"]
        transaction.set_rollback(True)

    def prepared_allowed(execute, statement, params, many, context):
        return execute(statement.replace("current_setting('max_prepared_transactions')", "'64'"), params, many, context)

    with connection.execute_wrapper(prepared_allowed):
        assert [e.id for e in store_settings(databases=["default"])] == ["mq.E001"]


def notifications(opened, seconds=0.2):
    return [n.payload for n in opened.notifies(timeout=seconds)]


def test_fault_08_only_a_tick_notifies_and_only_when_something_was_sent(topic):
    with session() as listener:
        services.tick()
        listener.execute("LISTEN mq_horizon")
        send(topic, *"abc")
        send(topic, "d")
        assert notifications(listener) == []
        closed = services.tick()
        assert notifications(listener) == [str(closed)]
        time.sleep(1.1)  # the clock moves the ids on, the horizon follows: that is nobody's message
        assert services.tick() > closed
        assert notifications(listener) == []


def test_fault_09_partitions_are_made_while_a_dump_reads_and_sends_go_on(topic):
    group = new_group(topic)
    with session(autocommit=False) as dump, session() as keeper:
        dump.execute("SELECT count(*) FROM mq_message")
        dump.execute("LOCK TABLE mq_message, mq_history, mq_delayed IN ACCESS SHARE MODE")
        before = sql("SELECT partitioned_to FROM mq_horizon")
        days = int((before - sql("SELECT mq_id_at(now())")) / 2**20 / 86400) + 1
        made = keeper.execute("SELECT mq_upkeep(%s)", (days,)).fetchone()[0]
        assert made.startswith("mq_message_")
        send(topic, "meanwhile")  # with the dump still open: neither waits for it
    assert sql("SELECT partitioned_to FROM mq_horizon") > before
    assert bodies(pull(group)) == ["meanwhile"]


def test_fault_09_a_partition_that_cannot_get_its_lock_gives_up_soon_and_is_tried_again():
    with session(autocommit=False) as ddl, session() as keeper:
        ddl.execute("LOCK TABLE mq_message IN SHARE UPDATE EXCLUSIVE MODE")
        before = sql("SELECT partitioned_to FROM mq_horizon")
        days = int((before - sql("SELECT mq_id_at(now())")) / 2**20 / 86400) + 1
        with pytest.raises(psycopg.errors.LockNotAvailable):
            keeper.execute("SELECT mq_upkeep(%s)", (days,))
        ddl.rollback()
        assert keeper.execute("SELECT mq_upkeep(%s)", (days,)).fetchone()[0]
        upkeep(keeper)
        assert keeper.execute("SELECT mq_upkeep()").fetchone()[0] is None


def test_ids_reach_no_further_than_the_partitions():
    reach = sql("SELECT mq_time_of(partitioned_to) FROM mq_horizon")
    assert reach > datetime.now(UTC) + timedelta(days=12)
    with session() as opened:
        edge = opened.execute("SELECT max(hi::bigint) FROM mq_partitions('mq_message')").fetchone()[0]
    assert edge == sql("SELECT partitioned_to FROM mq_horizon")


def test_far_away_delayed_messages_have_a_partition_ten_years_ahead():
    with session() as opened:
        edge = opened.execute("SELECT max(hi::timestamptz) FROM mq_partitions('mq_delayed')").fetchone()[0]
    assert edge > datetime.now(UTC) + timedelta(days=3660)


def test_a_passed_and_empty_partition_of_delayed_messages_is_dropped():
    with session() as opened:
        opened.execute("SELECT mq_attach('mq_delayed', 'past', 'deliver_at', '2001-01-01 00:00+00', '2001-02-01 00:00+00')")
        opened.execute("INSERT INTO mq_delayed (id, deliver_at, topic_id, body) VALUES (1, '2001-01-02 00:00+00', 1, '')")
        drop_promoted(opened)
        assert opened.execute("SELECT to_regclass('mq_delayed_past')").fetchone()[0]
        opened.execute("DELETE FROM mq_delayed WHERE id = 1")
        drop_promoted(opened)
        assert opened.execute("SELECT to_regclass('mq_delayed_past')").fetchone()[0] is None


def test_an_old_partition_that_was_left_half_detached_is_finished_and_dropped():
    with session() as opened, session(autocommit=False) as reader:
        opened.execute("SELECT mq_attach('mq_delayed', 'past', 'deliver_at', '2001-01-01 00:00+00', '2001-02-01 00:00+00')")
        reader.execute("SELECT count(*) FROM mq_delayed")
        for _try in range(2):  # waits for the reader in its second half, in vain
            with pytest.raises(psycopg.errors.LockNotAvailable):
                drop_promoted(opened)
        assert opened.execute("SELECT to_regclass('mq_delayed_past')").fetchone()[0]
        reader.rollback()
        drop_promoted(opened)
        assert opened.execute("SELECT to_regclass('mq_delayed_past')").fetchone()[0] is None


def test_fault_12_one_ticks_while_another_is_stalled_and_the_sequence_never_goes_back():
    with session(autocommit=False) as stalled:
        stalled.execute("SELECT mq_tick()")  # holds the tick's lock
        before = sql("SELECT last_value FROM mq_id_seq")
        assert services.tick() is None
        time.sleep(1.1)
        assert services.tick() is None
        stalled.rollback()
    services.tick()
    assert sql("SELECT last_value FROM mq_id_seq") > before

    lowest, stop = [], []

    def watch():
        last = 0
        while not stop:
            now = sql("SELECT last_value FROM mq_id_seq")
            lowest.append(now >= last)
            last = now

    def tick_on():
        for _ in range(60):
            services.tick()
            time.sleep(0.01)

    threads = Threads()
    watcher = threads.start(watch)
    tickers = [threads.start(tick_on) for _ in range(2)]
    for ticker in tickers:
        ticker.join(10)
    stop.append(1)
    watcher.join(10)
    threads.join()
    assert all(lowest)


def test_fault_12_a_jump_of_the_clock_is_not_followed(topic):
    services.tick()
    before = sql("SELECT last_value FROM mq_id_seq")
    time.sleep(2.1)  # whole seconds count
    sql("UPDATE mq_horizon SET refused_at = NULL")
    sql("SELECT mq_tick('1 s')")  # the clock is more than a second ahead of the ids
    assert sql("SELECT last_value FROM mq_id_seq") == before
    assert services.health().clock_refused is True
    group = new_group(topic)
    send(topic, "x")
    sql("SELECT mq_tick('1 s')")
    assert sql("SELECT last_value FROM mq_id_seq") == before + 1  # ids go on, one by one
    assert bodies(pull(group)) == ["x"]
    sql("UPDATE mq_horizon SET refused_at = NULL")


def test_fault_12_a_sequence_that_stands_below_the_horizon_is_refused_loudly_and_put_right(topic):
    group = new_group(topic)
    services.tick()
    closed = sql("SELECT closed_id FROM mq_horizon")
    with session() as opened:
        opened.execute("SELECT setval('mq_id_seq', %s)", (closed - 551_425,))
        with pytest.raises(Exception, match="below the horizon"):
            send(topic, "lost in silence otherwise")
        services.tick()
    send(topic, "x")
    assert bodies(pull(group)) == ["x"]


def test_fault_14_time_to_id_rounds_down():
    for t in ("2026-01-01 00:00:00+00", "2026-01-01 00:00:00.5+00", "2026-01-01 00:00:00.999999+00"):
        assert sql("SELECT mq_id_at(%s::timestamptz)", t) == sql("SELECT mq_id_at('2026-01-01 00:00:00+00')")
    assert sql("SELECT mq_id_at('2019-12-31 23:59:59.5+00')") == -(1 << 20)
    assert sql("SELECT mq_time_of(mq_id_at('2026-05-06 07:08:09+00'))") == datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert sql("SELECT mq_id_at('2250-01-01 00:00:00+00')") < 2**53  # exact in JavaScript


def test_ids_tell_when_a_message_was_sent(topic):
    services.tick()
    (message,) = send(topic, "x")
    sent = sql("SELECT mq_time_of(%s)", message)
    assert abs((datetime.now(UTC) - sent).total_seconds()) < 5


def test_fault_16_a_pull_takes_a_bounded_number_of_locks(topic):
    group = new_group(topic)
    send(topic, *"abc")
    services.tick()
    for _ in range(8):  # plans become generic
        pull(group, limit=1, visibility_ms=60_000)
        send(topic, "x")
        services.tick()
    with transaction.atomic():
        assert pull(group).messages
        locks = sql("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'")
        partitions = sql("SELECT count(*) FROM mq_partitions('mq_message')")
    assert partitions >= 15
    assert locks <= 50, f"{locks} relation locks with {partitions} partitions"


def test_the_first_send_before_any_tick_finds_a_partition():
    with transaction.atomic():  # as after a fresh migration: the ids of now, no tick yet
        sql("UPDATE mq_horizon SET at = at - interval '1 day'")
        assert send(new_id(), "x")
        transaction.set_rollback(True)


def test_the_storekeeper_ticks_cuts_and_hands_over(topic):
    group = new_group(topic)
    first, second = Storekeeper(), Storekeeper()
    threads = Threads()
    threads.start(first.run)
    until(lambda: sql(f"SELECT count(*) FROM {ACTIVE}") == 1)
    threads.start(second.run)
    (message,) = send(topic, "x")
    until(lambda: sql("SELECT closed_id FROM mq_horizon") >= message)
    first.stop()
    threads.threads[0].join(5)
    (message,) = send(topic, "y")
    until(lambda: sql("SELECT closed_id FROM mq_horizon") >= message)
    send(topic, *(str(i) for i in range(1000)))
    until(lambda: sql("SELECT count(*) FROM mq_stat WHERE topic_id = %s", topic))
    second.stop()
    threads.join()
    assert len(pull(group, limit=1000).messages) == 1000


def test_a_chore_that_gets_no_lock_keeps_neither_the_ticks_nor_the_beat_waiting_and_is_done_later(topic, monkeypatch):
    days = int((sql("SELECT partitioned_to FROM mq_horizon") - sql("SELECT mq_id_at(now())")) / 2**20 / 86400) + 1
    tries = []

    def upkeep_further(keeper):
        tries.append(1)
        return keeper.execute("SELECT mq_upkeep(%s)", (days,)).fetchone()[0] is None

    monkeypatch.setattr(storekeeper, "upkeep", upkeep_further)
    monkeypatch.setattr(storekeeper, "LOCKED", 0.05)
    before = sql("SELECT partitioned_to FROM mq_horizon")
    keeper, threads = Storekeeper(), Threads()
    with session(autocommit=False) as other:
        other.execute("LOCK TABLE mq_message IN SHARE UPDATE EXCLUSIVE MODE")  # an ATTACH waits for it
        threads.start(keeper.run)
        until(lambda: sql(f"SELECT count(*) FROM {ACTIVE}") == 1)
        for _round in range(2):
            seen = len(tries)
            (message,) = send(topic, "x")
            beaten = sql("SELECT beat_at FROM mq_storekeeper")
            until(lambda message=message: sql("SELECT closed_id FROM mq_horizon") >= message)
            until(lambda beaten=beaten: beaten is None or sql("SELECT beat_at FROM mq_storekeeper") > beaten)
            until(lambda seen=seen: len(tries) > seen)
        assert sql("SELECT partitioned_to FROM mq_horizon") == before
        pid = sql(f"SELECT pid FROM {ACTIVE}")
        other.rollback()
    until(lambda: sql("SELECT partitioned_to FROM mq_horizon") > before)
    assert sql(f"SELECT pid FROM {ACTIVE}") == pid  # it has not given up its place
    keeper.stop()
    threads.join()


def test_a_storekeeper_goes_on_after_it_lost_its_connection(topic):
    keeper = Storekeeper()
    threads = Threads()
    threads.start(keeper.run)
    find = f"SELECT pid FROM {ACTIVE}"
    pid = until(lambda: sql(find))
    sql("SELECT pg_terminate_backend(%s)", pid)
    until(lambda: sql(find) not in {None, pid})
    (message,) = send(topic, "x")
    until(lambda: sql("SELECT closed_id FROM mq_horizon") >= message)
    keeper.stop()
    threads.join()
