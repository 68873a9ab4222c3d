"""What the tests of the store share: topics and groups of their own (so that nothing has to be emptied), threads, raw sessions."""

import contextlib
import threading
import time
from itertools import combinations_with_replacement, count

import psycopg
import pytest
from django.db import OperationalError, connection, connections

from clusters.drivers import builtin
from core.operations import driving
from messages import services, waiting
from messages.types import NewMessage, Outcome

_next = count(time.time_ns() // 1000)


# who needs what of the whole log
NEEDED = "mq_partitions('mq_message') p CROSS JOIN LATERAL mq_needed_by(p.lo::bigint, p.hi::bigint) n"


def new_id():
    return next(_next)


def new_group(*topics, max_attempts=3, backoff_ms=(0,), **subscription):
    group = new_id()
    builtin.create_group(group_id=group, max_attempts=max_attempts, backoff_ms=backoff_ms)
    for topic in topics:
        builtin.subscribe(group_id=group, topic_id=topic, **subscription)
    return group


def send(topic, *bodies, **fields):
    return [a.id for a in services.send(topic_id=topic, messages=[NewMessage(b.encode(), **fields) for b in bodies])]


def bury(topic, group, *names, reason="broken"):
    ids = send(topic, *names)
    batch = pull(group, limit=1000)
    assert [m.id for m in batch.messages] == ids
    settle(group, batch, "dead", error=reason)
    return ids


def redrive(group, ids=None, only=None, **plan):
    """A redrive by the system, driven to its end as workers do, or to where it stands still."""
    started = services.start_redrive(group_id=group, ids=ids, only=only, plan=services.Plan(**plan))
    return drive(started)


def drive(operation):
    """Do what there is to do now."""
    while driving.take_on(operation.pk):
        pass
    operation.refresh_from_db()
    return operation


def pull(group, limit=100, visibility_ms=60_000, consumer="w"):
    return services.pull(group_id=group, limit=limit, visibility_ms=visibility_ms, consumer=consumer)


def settle(group, batch, status="succeeded", messages=None, **fields):
    outcomes = [Outcome(m.id, status, **fields) for m in (batch.messages if messages is None else messages)]
    return services.settle(group_id=group, lease=batch.lease or "", outcomes=outcomes)


def bodies(batch):
    return [m.body.decode() for m in batch.messages]


def counts(group):
    c = services.counts(group_ids=[group])[group]
    return {name: getattr(c, name) for name in c.__slots__ if name != "group_id" and getattr(c, name)}


def status(message_id, group):
    return next(s for s in services.message_status(message_id=message_id) if s.group_id == group)


#: Who waits for the lock of senders. Other tests' databases are copies of one template: the same tables have the same oids in them.
WAITING_SENDERS = (
    "pg_locks l JOIN pg_database d ON d.oid = l.database WHERE l.relation = 'mq_message'::regclass AND NOT l.granted"
    " AND d.datname = current_database()"
)


def sql(statement, *params):
    """One statement in autocommit on the test's own connection; the first column of the first row."""
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def session(**kwargs):
    """A session beside Django's, as another process would have it."""
    opened = waiting.connect()
    opened.autocommit = kwargs.get("autocommit", True)
    return opened


@contextlib.contextmanager
def copied_database(suffix):
    """The database of the tests once more, which all connections use meanwhile; its name. What is done to it nobody else meets."""
    settings = connection.settings_dict
    before, name = settings["NAME"], f"{settings['NAME']}_{suffix}"
    server = {"host": settings["HOST"], "port": settings["PORT"], "user": settings["USER"], "password": settings["PASSWORD"]}
    with psycopg.connect(dbname="postgres", autocommit=True, **server) as admin:
        connections.close_all()
        # nobody may be in it while it is copied
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [before])
        admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{before}"')
        try:
            settings["NAME"] = name
            yield name
        finally:
            connections.close_all()
            settings["NAME"] = before
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def until(done, seconds=5.0):
    """Poll until `done()` is true; the value, or an assertion."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = done()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s")


class Threads:
    """Threads with a database connection each; the first error of any is raised in the test."""

    def __init__(self):
        self.errors = []
        self.threads = []

    def start(self, work, *args):
        def run():
            try:
                work(*args)
            except BaseException as error:
                self.errors.append(error)
            finally:
                connection.close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.threads.append(thread)
        return thread

    def join(self, seconds=30):
        end = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))
        assert not any(thread.is_alive() for thread in self.threads), "a thread hangs"
        if self.errors:
            raise self.errors[0]


def expire_now(group):
    """Let the leases of a group run out at once, as if their time had passed."""
    sql("UPDATE mq_lease SET lease_until = clock_timestamp() - interval '1 ms' WHERE group_id = %s", group)
    sql("UPDATE mq_exception SET lease_until = clock_timestamp() - interval '1 ms' WHERE group_id = %s AND status = 'P'", group)
    services.expire()


def hunt_deadlocks(verbs, ran, *, seconds, seed):
    """Run every pair of verbs against each other for so long, the second one twice; count in `ran` how often each was done. Fails on a
    deadlock. The three sessions stay the same: new ones would spend their time on compiling the functions."""
    together, threads, begin = combinations_with_replacement(verbs, 2), Threads(), threading.Barrier(3)
    pairs, pair_of = list(together), {}

    def run(place):
        sql("SET deadlock_timeout = '20ms'")
        for pair in pairs:
            verb = pair[min(place, 1)]
            with contextlib.suppress(threading.BrokenBarrierError):
                begin.wait(60)
            if begin.broken:
                return
            end = time.monotonic() + seconds
            try:
                while True:
                    verb()
                    ran[verb.__name__] = ran.get(verb.__name__, 0) + 1
                    if time.monotonic() > end:
                        break
            except BaseException as error:
                pair_of[error] = pair
                begin.abort()
                raise

    for place in range(3):
        threads.start(run, place)
    try:
        threads.join(120)
    except OperationalError as error:
        first, second = pair_of[error]
        pytest.fail(f"{first.__name__} against {second.__name__}: {error}; seed {seed}")
