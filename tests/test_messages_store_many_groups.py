"""Beside the exceptions of 100,000 groups every verb reads what is its own: blocks are counted, not seconds.

Each statement of a verb is asked for its blocks by EXPLAIN (ANALYZE, BUFFERS) before it is done. A statement that reads the
exceptions of all groups reads thousands; the control shows it.
"""

import contextlib

import psycopg
import pytest
from django.db import transaction

from messages import consuming, services
from messages.types import DeadFilter, Outcome
from tests.messages_world import STORE
from tests.store_world import copied_database, session, sql

GROUPS, TOPICS = 100_000, 1_000
FIRST = 5_000_000_000  # the first group, and topic
FILL = f"""
    SET synchronous_commit = off;
    ALTER TABLE mq_cursor DROP CONSTRAINT mq_cursor_group_id_fkey;
    ALTER TABLE mq_cursor SET (fillfactor = 100);
    TRUNCATE {", ".join(STORE)} CASCADE;
    INSERT INTO mq_topic (topic_id) SELECT {FIRST} + t FROM generate_series(0, {TOPICS - 1}) t;
    CREATE TEMP TABLE sent AS
      SELECT {FIRST} + t AS topic_id, mq_append({FIRST} + t, '{{"","","","",""}}', n, n, n, '{{x,x,x,x,x}}') AS ids
        FROM generate_series(0, {TOPICS - 1}) t, CAST('{{NULL,NULL,NULL,NULL,NULL}}' AS text[]) n;
    CREATE TEMP TABLE g AS SELECT {FIRST} + i AS group_id, s.topic_id, s.ids FROM generate_series(0, {GROUPS - 1}) i
      JOIN sent s ON s.topic_id = {FIRST} + i % {TOPICS};
    INSERT INTO mq_group (group_id, max_attempts, backoff_ms) SELECT group_id, 3, '{{0}}' FROM g;
    INSERT INTO mq_cursor (group_id, topic_id, pos, processing, later, dead, succeeded)
      SELECT group_id, topic_id, ids[4], (group_id % 10 = 1)::int, 1, 1, 2 - (group_id % 10 = 1)::int FROM g;
    INSERT INTO mq_span (group_id, topic_id, lo, kind, era) SELECT group_id, topic_id, 0, 'D', 0 FROM g;
    INSERT INTO mq_exception (group_id, msg_id, topic_id, attempts, status, due_at, lease_until, pulled_at, token, error)
      SELECT g.group_id, g.ids[n], g.topic_id, 1, CASE n WHEN 1 THEN 'L' WHEN 2 THEN 'D' ELSE 'P' END,
             CASE n WHEN 1 THEN now() + interval '1 hour' END, CASE n WHEN 3 THEN now() + interval '1 hour' END, now(),
             CASE n WHEN 3 THEN nextval('mq_token_seq') END, CASE n WHEN 2 THEN 'order ' || g.group_id || ' cannot be parsed' END
        FROM g, generate_series(1, 3) n WHERE n < 3 OR g.group_id % 10 = 1 ORDER BY 1, 2;
    INSERT INTO mq_claim (claim, ids) SELECT n, ARRAY[n] FROM generate_series(1, {GROUPS}) n;
    INSERT INTO mq_transaction (application_id, producer, id, epoch, digest)
      SELECT 1, 'p', n::text, 1, '' FROM generate_series(1, {GROUPS // 5}) n;
    DROP TABLE g, sent;
    RESET synchronous_commit;
"""
ONE = FIRST + 54_321


@pytest.fixture(scope="module")
def crowd(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), copied_database("crowd"):
        with session() as opened:
            opened.execute(FILL)
            for table in ("mq_exception", "mq_cursor", "mq_group", "mq_span", "mq_topic", "mq_claim"):
                opened.execute(f"VACUUM (ANALYZE) {table}")
        services.tick()
        sql("SELECT mq_cut(1000000, 1000)")
        yield


class Blocks:
    """How many blocks the statements of a block of code read; each is explained, taken back, and then done."""

    def __init__(self, monkeypatch):
        self.monkeypatch, self.read, self.worst = monkeypatch, 0, ("", 0)

    @contextlib.contextmanager
    def counted(self):
        execute = psycopg.Cursor.execute

        def explained(cursor, query, params=None, **how):
            text = query.decode() if isinstance(query, bytes) else str(query)
            if text.lstrip().upper().startswith(("SELECT", "WITH", "UPDATE", "DELETE", "INSERT")):
                with psycopg.Cursor(cursor.connection) as other:
                    execute(other, "SAVEPOINT explained")
                    execute(other, f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", params)
                    plan = other.fetchone()[0][0]["Plan"]
                    execute(other, "ROLLBACK TO SAVEPOINT explained")
                read = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
                self.read += read
                self.worst = max(self.worst, (text, read), key=lambda one: one[1])
            return execute(cursor, query, params, **how)

        with transaction.atomic(), self.monkeypatch.context() as patch:
            patch.setattr(psycopg.Cursor, "execute", explained)
            yield
            patch.undo()
            transaction.set_rollback(True)


@pytest.fixture
def blocks(crowd, monkeypatch):
    return Blocks(monkeypatch)


def take():
    return services.pull(group_id=ONE, limit=10, visibility_ms=60_000, consumer="w")


def work_off():
    batch = take()
    assert len(batch.messages) == 1
    outcomes = [Outcome(m.id, "failed", error="order 7 cannot be parsed") for m in batch.messages]
    _settled, again = services.next(group_id=ONE, lease=batch.lease, outcomes=outcomes, limit=10, visibility_ms=60_000, consumer="w")
    assert [m.attempt for m in again.messages] == [2]
    services.extend(group_id=ONE, lease=again.lease, visibility_ms=90_000)
    services.settle(group_id=ONE, lease=again.lease, outcomes=[Outcome(m.id, "dead") for m in again.messages])


def expire():
    sql("UPDATE mq_exception SET lease_until = clock_timestamp() WHERE group_id BETWEEN %s AND %s AND status = 'P'", ONE, ONE + 99)
    assert services.expire() == 10


def look_at_dead():
    assert len(services.dead_letters(group_id=ONE).items) == 1
    only = DeadFilter(cause=services.dead_causes(group_id=ONE).items[0].cause)
    assert len(services.dead_letters(group_id=ONE, only=only).items) == 1


def count():
    found = services.counts(group_ids=list(range(ONE, ONE + 10)))
    assert {(c.waiting, c.later, c.dead) for c in found.values()} == {(1, 1, 1)}
    services.lag(group_ids=list(range(ONE, ONE + 10)))


def wake():
    consuming.fetch("SELECT * FROM mq_ready(%s::bigint[])", (list(range(ONE, ONE + 20)),))


def storekeep():
    """What the storekeeper does every few seconds, but for what cannot be done inside a transaction."""
    for chore in (
        "mq_cut(20)",
        "mq_purge_claims()",
        "mq_half_purge()",
        "mq_transaction_purge()",
        "mq_beat()",
        "mq_upkeep()",
    ):
        sql(f"SELECT {chore}")


def work_each_second():
    services.promote()
    services.enforce()
    services.sweep_instances()
    consuming.fetch("SELECT * FROM mq_half_due(3)")
    consuming.fetch("SELECT * FROM mq_push_due(%s::bigint[])", (list(range(ONE, ONE + 20)),))


def look_at_everything():
    sql("SELECT count(*) FROM mq_exception WHERE error LIKE '%%nobody says this%%'")


MOST = 700  # blocks that a statement may read; the exceptions alone have five times as many, and no index of theirs has fewer


@pytest.mark.parametrize("verb", [take, work_off, expire, look_at_dead, count, wake, storekeep, work_each_second])
def test_a_verb_reads_what_is_its_own(blocks, verb):
    with transaction.atomic():  # once before: what a session reads of the catalogue when it compiles a function is not meant
        verb()
        transaction.set_rollback(True)
    with blocks.counted():
        verb()
    print(f"{verb.__name__}: {blocks.read} blocks")
    assert blocks.read > 0
    assert blocks.worst[1] <= MOST, blocks.worst


def test_control_a_statement_that_looks_at_all_exceptions_is_seen(blocks):
    with blocks.counted():
        look_at_everything()
    assert blocks.worst[1] > 4 * MOST
