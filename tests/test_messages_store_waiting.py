"""Waiting for messages: no database connection while parked, one thread woken per group, none left behind."""

import time

import pytest
from django.db import connection

from messages import services, waiting
from messages.storekeeper import Storekeeper
from messages.types import NewMessage, Outcome
from tests.store_world import Threads, new_group, new_id, pull, send, sql, until

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def lobby():
    made = waiting.Lobby(20)
    yield made
    made.close()
    until(lambda: made.parked == 0)
    if made._listener is not None:
        made._listener.join(5)
        assert not made._listener.is_alive()


@pytest.fixture
def ticking():
    keeper, threads = Storekeeper(), Threads()
    threads.start(keeper.run)
    yield
    keeper.stop()
    threads.join()


def test_a_waiter_wakes_soon_after_a_send(lobby, ticking):
    topic = new_id()
    group = new_group(topic)
    threads, woken = Threads(), []
    threads.start(lambda: woken.append((lobby.wait(group, 30), time.monotonic())))
    until(lambda: lobby.parked == 1)
    time.sleep(0.1)
    send(topic, "x")
    sent = time.monotonic()
    threads.join()
    assert woken[0][0] is True
    assert woken[0][1] - sent < 20  # woken, not timed out
    assert len(pull(group).messages) == 1


def test_nothing_is_missed_between_an_empty_pull_and_the_wait(lobby):
    topic = new_id()
    group = new_group(topic)
    assert pull(group).messages == []
    send(topic, "x")
    services.tick()  # its notification is gone before anybody listens
    started = time.monotonic()
    assert lobby.wait(group, 30) is True
    assert time.monotonic() - started < 30


def test_a_wait_ends_with_its_timeout(lobby):
    started = time.monotonic()
    assert lobby.wait(new_group(new_id()), 0.3) is False
    assert time.monotonic() - started > 0.25


def test_a_due_retry_wakes_without_any_send(lobby):
    topic = new_id()
    group = new_group(topic, backoff_ms=(300,))
    send(topic, "x")
    batch = pull(group)
    services.settle(group_id=group, lease=batch.lease, outcomes=[Outcome(batch.messages[0].id, "failed")])
    assert lobby.wait(group, 10) is True
    assert pull(group).messages


def test_one_thread_per_group_is_woken_not_the_whole_crowd(lobby):
    topic = new_id()
    group = new_group(topic)
    threads, woken = Threads(), []

    def waiter():
        if lobby.wait(group, 10):
            woken.append(len(pull(group).messages))

    for _ in range(10):
        threads.start(waiter)
    until(lambda: lobby.parked == 10)
    send(topic, "x")
    services.tick()
    until(lambda: woken)
    time.sleep(0.3)
    assert sum(woken) == 1
    assert len(woken) <= 4  # a second look while the first still pulls may wake one more, never the ten
    lobby.close()
    threads.join()


def test_each_of_many_groups_gets_its_waiter_woken(lobby, ticking):
    topics = [new_id() for _ in range(8)]
    groups = [new_group(t) for t in topics]
    threads, woken = Threads(), []
    for g in groups:
        threads.start(lambda g=g: woken.append((g, lobby.wait(g, 10))))
    until(lambda: lobby.parked == 8)
    for t in topics[:5]:
        services.send(topic_id=t, messages=[NewMessage(b"x")])
    until(lambda: len(woken) == 5)
    assert {g for g, _ in woken} == set(groups[:5])
    lobby.close()
    threads.join()


def test_parked_threads_hold_no_connection(lobby):
    find = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    groups = [new_group(new_id()) for _ in range(15)]
    before = sql(find)
    threads = Threads()
    for g in groups:
        threads.start(lambda g=g: lobby.wait(g, 10))
    until(lambda: lobby.parked == 15)
    time.sleep(0.2)
    assert sql(find) <= before + 1  # the one that listens
    lobby.close()
    threads.join()


def test_a_full_lobby_sends_the_next_one_away(lobby):
    threads = Threads()
    groups = [new_group(new_id()) for _ in range(20)]
    for g in groups:
        threads.start(lambda g=g: lobby.wait(g, 10))
    until(lambda: lobby.parked == 20)
    with pytest.raises(waiting.FullError):
        lobby.wait(groups[0], 10)
    lobby.close()
    threads.join()


def test_closing_wakes_everybody_at_once(lobby):
    threads = Threads()
    for _ in range(5):
        threads.start(lambda: lobby.wait(new_group(new_id()), 60))
    until(lambda: lobby.parked == 5)
    started = time.monotonic()
    lobby.close()
    threads.join(25)
    assert time.monotonic() - started < 30
    assert lobby.wait(1, 10) is False


def test_the_listener_comes_back_after_its_connection_was_cut(lobby, ticking):
    topic = new_id()
    group = new_group(topic)
    threads, woken = Threads(), []
    threads.start(lambda: woken.append(lobby.wait(group, 15)))
    pid = until(
        lambda: sql(
            "SELECT pid FROM pg_stat_activity WHERE query LIKE '%%mq_ready%%' AND pid <> pg_backend_pid() AND datname = current_database()"
        )
    )
    sql("SELECT pg_terminate_backend(%s)", pid)
    time.sleep(0.2)
    send(topic, "x")
    threads.join()
    assert woken == [True]


def test_a_suspended_group_does_not_leave_its_waiters_hanging(lobby):
    from clusters.drivers import builtin

    group = new_group(new_id())
    builtin.update_group(group_id=group, max_attempts=3, backoff_ms=[0], suspended=True)
    assert lobby.wait(group, 10) is True
    assert pull(group).reason == "suspended"


def test_sigterm_wakes_all_before_the_servers_own_handler(monkeypatch):
    import os
    import signal

    monkeypatch.setattr(signal, "signal", signal.signal)
    monkeypatch.setattr(waiting, "_lobby", None)
    before, handled, threads = signal.getsignal(signal.SIGTERM), [], Threads()
    try:
        waiting.wake_on_signals()
        signal.signal(signal.SIGTERM, lambda *_: handled.append(waiting.lobby().wait(1, 10)))
        group = new_group(new_id())
        threads.start(lambda: waiting.wait(group, 30))
        until(lambda: waiting.lobby().parked == 1)
        os.kill(os.getpid(), signal.SIGTERM)
        threads.join(5)
        assert handled == [False]  # closed before the server's handler ran
    finally:
        monkeypatch.undo()
        signal.signal(signal.SIGTERM, before)
    assert connection.connection is not None


def test_what_the_listener_hears_is_not_kept(lobby, monkeypatch):
    made, connect = [], waiting.connect
    monkeypatch.setattr(waiting, "connect", lambda: made.append(connect()) or made[-1])
    threads = Threads()
    threads.start(lobby.wait, new_group(new_id()), 1.0)
    until(lambda: made)
    for _notice in range(20):
        sql("SELECT pg_notify(%s, 'x')", waiting.CHANNEL)
        time.sleep(0.02)
    threads.join()
    assert not made[0]._notifies_backlog
