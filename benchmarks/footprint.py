"""What a queue leaves on the disk: bytes of a message that waits, and bytes and dead rows after many went through. Ours and four peers.

    make bench ARGS=footprint              # two million messages through each, or what comes in two minutes
    make bench ARGS=footprint=200000,20    # so many, or what comes in so many seconds
    make bench ARGS=footprint=200000,20,ours,pgmq

Each queue has a database of its own, which autovacuum cleans as everywhere. Ours keeps every message for seven days after all groups
are done; the peers delete what is done, but for a log of their own, so that is what theirs is compared with.
"""

import json
import os
import subprocess
import sys
from typing import Any

import psycopg

from benchmarks import Row
from benchmarks.peers import PEERS, ask, database

WAITING = 100_000
# Partitions and what lies beside a table count; what Postgres itself keeps does not. Statistics come up to a second late.
SIZES = """
    SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""
DEAD = "SELECT sum(n_dead_tup)::bigint, sum(n_tup_upd + n_tup_del)::bigint FROM pg_stat_user_tables"


def run(messages: str = "2000000", seconds: str = "120", *asked: str) -> list[Row]:
    """Ours first, then each peer; or those that are named."""
    found = {side: _measured(side, int(messages), float(seconds)) for side in ("ours", *PEERS) if not asked or side in asked}
    rows = []
    for side, it in found.items():
        ours = found.get("ours", it)
        note = "ours" if side == "ours" else f"a peer: {side} {PEERS[side]}"
        through = f"{it['through']:,} went through"
        for name, key, unit in (
            ("bytes of a message that waits", "waiting", "B"),
            ("bytes kept of each that went through", "bytes", "B"),
            ("dead rows in the end, of each 1,000 that went through", "dead", "rows"),
            ("rows updated or deleted on the way, of each 1,000", "churn", "rows"),
        ):
            floor = ours[key]
            ratio = round(it[key] / floor, 2) if floor else 0.0
            rows.append(Row(f"{name}, {side}", round(it[key], 1), round(floor, 1), ratio, unit, f"{note}, beside ours; {through}"))
    return rows


def _measured(side: str, messages: int, seconds: float) -> dict[str, float]:
    with database(f"bench_{side}") as dsn:
        empty = _size(dsn) if side != "ours" else 0
        if side == "ours":
            empty = _ours(dsn, what="migrate")
            _ours(dsn, what="store", ahead=WAITING, seconds=0)
        else:
            ask(side, dsn, what="store", ahead=WAITING, seconds=0)
        waiting = (_size(dsn) - empty) / WAITING
    with database(f"bench_{side}") as dsn:
        empty = _ours(dsn, what="migrate") if side == "ours" else 0
        asked: dict[str, Any] = {"what": "sustain", "messages": messages, "seconds": seconds}
        through = _ours(dsn, **asked) if side == "ours" else ask(side, dsn, **asked)
        with psycopg.connect(dsn, autocommit=True) as session:
            session.execute("SELECT pg_stat_force_next_flush()")
            dead, churn = session.execute(DEAD).fetchone() or (0, 0)
        kept = (_size(dsn) - empty) / through
    print(f"  {side}: {waiting:.0f} B waiting, {kept:.0f} B of each of {through:,}, {dead:,} dead rows", flush=True)
    return {"waiting": waiting, "bytes": kept, "dead": dead / through * 1000, "churn": churn / through * 1000, "through": through}


def _size(dsn: str) -> int:
    with psycopg.connect(dsn) as session:
        row = session.execute(SIZES).fetchone()
    return int(row[0] or 0) if row else 0


def _ours(dsn: str, **what: Any) -> int:
    """In a process of its own, whose database is this one."""
    env = {**os.environ, "DATABASE_URL": dsn.replace("postgresql://", "postgres://")}
    command = [sys.executable, "-m", "benchmarks.footprint", json.dumps(what)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.splitlines()[-1]) if what["what"] != "migrate" else _size(dsn)


def _measure_ours(*, what: str, messages: int = 0, **options: Any) -> int:
    from django.core.management import call_command

    call_command("migrate", interactive=False, verbosity=0)
    if what == "migrate":
        return 0
    from benchmarks.flow import Flow
    from benchmarks.our_side import Ours
    from benchmarks.store import BODY, _storekeeper, _topic

    with _storekeeper():
        topic = _topic(groups=1)
        flow, side = Flow(1, **options), Ours(topic, [topic], BODY)
        return flow.store(side) if what == "store" else flow.sustain(side, messages)


if __name__ == "__main__":
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mqadmin.settings")
    django.setup()
    print(_measure_ours(**json.loads(sys.argv[1])))
