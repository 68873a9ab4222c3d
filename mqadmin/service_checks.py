"""System checks of the services: what mqadmin relies on in Postgres, ZooKeeper and the Celery broker.

They ask the network, so nothing but `check --deploy --database default` runs them, with `--tag services` those of ZooKeeper and the
broker alone: `migrate` works while ZooKeeper is away.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, register
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

OLDEST_POSTGRES = 140000  # DETACH PARTITION CONCURRENTLY and its bookkeeping (messages/storekeeper.py)
OLDEST_ZOOKEEPER = (3, 6)
SKEW = 2.0  # seconds; signatures of application keys may be off by 300, leases and heartbeats are shown in seconds
RESERVE = 36  # connections for both workers, beat, registrars, storekeepers, and a person with psql
Found = Iterator[CheckMessage]


def _warning(text: str, hint: str, number: str) -> CheckMessage:
    return checks.Warning(text, hint=hint, id=f"mqadmin.{number}")


def _error(text: str, hint: str, number: str) -> CheckMessage:
    return Error(text, hint=hint, id=f"mqadmin.{number}")


def _asked(databases: Sequence[str] | None) -> bool:
    return bool(databases and "default" in databases)


# --- Postgres -----------------------------------------------------------------------------------------------------------


@register("database", deploy=True)
def postgres(*, databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """E010 to E019, W010 to W019: version, settings, rights, poolers, clock."""
    if not _asked(databases):
        return []
    try:
        return list(_postgres(connections["default"]))
    except (DatabaseError, psycopg.Error) as error:
        return [
            _error(f"Postgres cannot be asked: {str(error).strip().splitlines()[0]}", "Look at DATABASE_URL and at the server.", "E010")
        ]


def _postgres(database: BaseDatabaseWrapper) -> Found:
    def ask(statement: str, *params: Any) -> Any:
        with database.cursor() as cursor:
            cursor.execute(statement, params)
            row = cursor.fetchone()
        return row[0] if row else None

    def setting(name: str) -> str:
        return str(ask("SELECT current_setting(%s)", name))

    version = int(ask("SELECT current_setting('server_version_num')"))
    if version < OLDEST_POSTGRES:
        text = f"Postgres {setting('server_version')} is too old: 14 is needed, for detaching partitions while others read."
        yield _error(text, "Upgrade it; 15 or newer is better.", "E011")
    for name in ("fsync", "full_page_writes"):
        if setting(name) == "off":
            how = f"Set {name} = on. Only a database whose loss nobody would notice may run without."
            yield _error(f"{name} is off: a crash of the machine can destroy the database.", how, "E012")
    if setting("synchronous_commit") == "off":
        how = "Set synchronous_commit = on (or stronger) for this role; pulls and acks switch it off by themselves where it does no harm."
        yield _error("synchronous_commit is off: a message that was accepted may be lost.", how, "E013")
    if setting("server_encoding") != "UTF8":
        yield _error(f"The database's encoding is {setting('server_encoding')}.", "Make it anew with ENCODING 'UTF8'.", "E014")
    if setting("default_transaction_isolation") != "read committed":
        text = (
            f"default_transaction_isolation is {setting('default_transaction_isolation')}: the store's statements rely on read committed."
        )
        yield _error(text, "ALTER ROLE … SET default_transaction_isolation = 'read committed'", "E015")
    if ask("SELECT pg_is_in_recovery()") or setting("default_transaction_read_only") == "on":
        yield _error("The database can only be read.", "Connect to the primary: target_session_attrs=read-write in DATABASE_URL.", "E016")
    if not ask("SELECT has_schema_privilege(current_schema(), 'CREATE')"):
        how = "GRANT CREATE ON SCHEMA public TO the role: the storekeeper makes partitions ahead."
        yield _error("The role may not create tables.", how, "E017")
    if ask("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        how = "Connect as a role of mqadmin's own: a superuser gets around every protection, the audit's as well (docs/security.md)."
        yield _warning("mqadmin is connected as a superuser.", how, "W010")
    if setting("idle_in_transaction_session_timeout") in {"0", "0ms"}:
        how = "DATABASE_URL replaces mqadmin's own options: add idle_in_transaction_session_timeout to yours, 60 s."
        yield _warning("A transaction may stay open for ever: it would hold up every consumer.", how, "W011")
    yield from _capacity(ask, setting)
    yield from _pooler(database)
    yield from _clock(ask)


def _capacity(ask: Callable[..., Any], setting: Callable[[str], str]) -> Found:
    pool = int(settings.DATABASES["default"].get("OPTIONS", {}).get("pool", {}).get("max_size", 0) or 24)
    usable = int(setting("max_connections")) - int(setting("superuser_reserved_connections"))
    if usable < pool + RESERVE:
        text = f"max_connections leaves {usable} connections; one web process takes up to {pool}, all others together some {RESERVE}."
        yield _warning(text, "Raise max_connections, or lower MQADMIN_DB_POOL_SIZE.", "W012")
    locks = int(setting("max_locks_per_transaction")) * (int(setting("max_connections")) + int(setting("max_prepared_transactions")))
    # A statement that plans over all partitions of a table locks each of them and of their indexes.
    widest = ask(
        "SELECT max(n) FROM (SELECT count(*) + count(i.indexrelid) AS n FROM pg_inherits h LEFT JOIN pg_index i ON i.indrelid = h.inhrelid"
        " WHERE h.inhparent = ANY (SELECT to_regclass(t) FROM unnest(ARRAY['mq_message', 'mq_delayed']) t) GROUP BY h.inhparent) s"
    )
    if widest and widest * pool > locks:
        text = f"The lock table holds {locks} locks; {pool} connections that each look at all partitions need {widest * pool}."
        yield _warning(text, "Raise max_locks_per_transaction (to 256, for example) and restart Postgres.", "W013")


def _pooler(database: BaseDatabaseWrapper) -> Found:
    """A pooler that lends one server connection to many clients between transactions takes LISTEN and advisory locks from us.

    What the server says of its process and what the handshake said differ behind a pooler. Whether it lends is found out: is the
    process that served us a moment ago, while we are still connected, serving somebody else now?
    """
    with _open(database) as first:
        mine = _process(first)
        if mine == first.info.backend_pid:
            return
        others: list[psycopg.Connection[Any]] = []
        try:
            for _attempt in range(4):
                other = _open(database)
                others.append(other)
                other.autocommit = False  # keeps its server connection until the end
                if _process(other) == mine:
                    how = "Use pool_mode = session, or connect to Postgres directly: mqadmin has a pool of its own."
                    yield _error("There is a pooler in transaction mode between mqadmin and Postgres.", how, "E018")
                    return
        finally:
            for other in others:
                other.close()
    how = "Make sure that it is in session mode; mqadmin has a pool of its own and does not need another."
    yield _warning("There is a pooler between mqadmin and Postgres.", how, "W014")


def _open(database: BaseDatabaseWrapper) -> psycopg.Connection[Any]:
    """A connection of its own, outside Django's pool."""
    params = {
        name: value
        for name, value in database.get_connection_params().items()
        if name not in {"context", "cursor_factory", "prepare_threshold", "pool"}
    }
    return psycopg.connect(**params, autocommit=True)


def _process(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
    assert row is not None
    return int(row[0])


def _clock(ask: Callable[..., Any]) -> Found:
    began = time.time()
    there = float(ask("SELECT extract(epoch FROM clock_timestamp())::float8"))
    yield from _skewed("Postgres", there - (began + time.time()) / 2, (time.time() - began) / 2)


def _skewed(who: str, seconds: float, uncertain: float) -> Found:
    if abs(seconds) - uncertain > SKEW:
        text = f"The clock of {who} is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this machine's."
        yield _warning(text, "Keep all machines on NTP: leases, signatures and heartbeats compare times.", "W020")


# --- ZooKeeper ------------------------------------------------------------------------------------------------------------


@register("services", deploy=True)
def zookeeper(*, databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """E020 to E022, W021: each server reachable, 3.6 or newer, not read-only; the clock of the one that answers."""
    return list(_zookeeper()) if _asked(databases) else []


def _zookeeper() -> Found:
    from registry import ensemble  # every process loads this module, and only the check needs a client

    try:
        ensemble.access()
    except ValueError:
        return  # E023 tells
    servers = ensemble.servers(settings.ZOOKEEPER_HOSTS)
    reached = 0
    for host, port in servers:
        answer = _srvr(host, port)
        where = f"{host}:{port}"
        if isinstance(answer, OSError):
            text = f"ZooKeeper {where} does not answer: {answer.strerror or answer}"
            how = "Look at ZOOKEEPER_HOSTS and at the server; messages go on without it, changes of topics and groups wait."
            yield (_warning if len(servers) > 1 else _error)(text, how, "E020" if len(servers) == 1 else "W021")
            continue
        reached += 1
        found = re.search(r"Zookeeper version: (\d+)\.(\d+)", answer)
        if found is None:
            how = "Put srvr on 4lw.commands.whitelist to have version and mode checked."
            yield _warning(f"ZooKeeper {where} does not say its version.", how, "W022")
        elif tuple(map(int, found.groups())) < OLDEST_ZOOKEEPER:
            text = f"ZooKeeper {where} has version {'.'.join(found.groups())}: 3.6 is needed, for persistent recursive watches."
            yield _error(text, "Upgrade the ensemble.", "E021")
        if "Mode: read-only" in answer:
            how = "It has lost the rest of its ensemble; nothing can be published until they see each other again."
            yield _error(f"ZooKeeper {where} can only be read.", how, "E022")
    if len(servers) > 1 and not reached:
        yield _error("No ZooKeeper answers.", "Look at ZOOKEEPER_HOSTS.", "E020")
    if reached:
        measured = ensemble.skew(settings.ZOOKEEPER_HOSTS)
        if measured is not None:
            yield from _skewed("ZooKeeper", *measured)


def _srvr(host: str, port: int) -> str | OSError:
    from registry import ensemble

    try:
        return ensemble.ask(host, port, b"srvr")
    except OSError as error:
        return error


# --- Celery's broker --------------------------------------------------------------------------------------------------------


@register("services", deploy=True)
def broker(*, databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """E030, W030: the broker answers; a Redis throws no wake-up call away."""
    return list(_broker()) if _asked(databases) else []


def _broker() -> Found:
    import redis

    url = settings.CELERY_BROKER_URL
    if not url.startswith(("redis://", "rediss://", "unix://")):
        return
    try:
        with contextlib.closing(redis.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3)) as client:
            memory: Any = client.info("memory")
    except redis.RedisError as error:
        how = "Look at CELERY_BROKER_URL and at the server; without it delayed messages and redrives wait."
        yield _error(f"The Celery broker does not answer: {type(error).__name__}", how, "E030")
        return
    policy = memory.get("maxmemory_policy", "")
    if memory.get("maxmemory") and policy not in {"", "noeviction"}:
        how = "CONFIG SET maxmemory-policy noeviction"
        yield _warning(f"Redis may throw queues away when its memory is full (maxmemory-policy {policy}).", how, "W030")
