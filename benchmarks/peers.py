"""Other queues in Postgres, installed by this benchmark into an environment of their own, on the same server with the same bodies.

Not among the benchmarks that run by default: `make bench ARGS=peers`.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection

from benchmarks import Row
from benchmarks.flow import PRODUCERS, Flow
from benchmarks.our_side import Ours, singles
from benchmarks.store import BODY, _storekeeper, _topic
from clusters.drivers import builtin

SECONDS = 6.0
PEERS = {"pgmq": "1.1.4", "pgqueuer": "1.6.0", "procrastinate": "3.10.0", "awa": "0.6.9"}
PACKAGES = {"awa": "awa-pg"}
FURTHER = ["asyncpg==0.32.0", "psycopg[binary,pool]==3.3.9"]
WHAT = {
    "one": "end to end, one group, sustained",
    "plain": "the same, no repetition found out, as theirs",
    "five": "end to end, five groups: a delivery",
    "singles": f"single sends of {PRODUCERS} producers",
}


def run() -> list[Row]:
    """Measure ours and theirs in turns, each for seconds; the ratio is of time per message: smaller is better."""
    rows = []
    for name, version in PEERS.items():
        with _storekeeper():
            ours = _ours()
        with database(f"bench_{name}") as dsn:
            theirs = ask(name, dsn, what="rates", seconds=SECONDS)
        theirs["plain"] = theirs["one"]
        for key, text in WHAT.items():
            note = f"peer, not a floor: {name} {version}"
            rows.append(
                Row(
                    f"{text}, beside {name}",
                    round(ours[key], 1),
                    round(theirs[key], 1),
                    round(ours[key] / theirs[key], 4),
                    "µs per message",
                    note,
                )
            )
    return rows


def ask(name: str, dsn: str, begun: Callable[[], None] = lambda: None, **what: Any) -> Any:
    """Have a peer's process measure; `begun` is called when it says that it is at work, in a thread of its own."""
    command = [_environment(), "-m", "benchmarks.peer_side", name, dsn, json.dumps(what)]
    answer: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=settings.BASE_DIR) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said: list[str] = []
        listener = threading.Thread(target=lambda: said.extend(process.stderr or ()))
        listener.start()
        for line in process.stdout:
            if line == "begun\n":
                begun()
            answer.append(line)
        listener.join()
    if process.returncode or not answer:
        raise RuntimeError(f"{name}: {''.join(said)[-2000:]}")
    return json.loads(answer[-1])


def _ours() -> dict[str, float]:
    return {
        "one": _flow(1),
        "plain": _flow(1, repetitions=False),
        "five": _flow(5),
        "singles": singles(_topic(groups=1), PRODUCERS, SECONDS),
    }


def _flow(groups: int, *, repetitions: bool = True) -> float:
    topic = _topic(groups=1)
    following = [topic + number * 100_000 for number in range(groups)]
    for group in following[1:]:
        builtin.create_group(group_id=group, max_attempts=16, backoff_ms=[1000])
        builtin.subscribe(group_id=group, topic_id=topic)
    return Flow(groups, SECONDS).micros(Ours(topic, following, BODY, repetitions=repetitions))


def _environment() -> str:
    """The Python of an environment with the peers in it, made once."""
    home = Path(settings.BASE_DIR) / ".mqadmin" / "peers"
    python = home / "bin" / "python"
    wanted = [*(f"{PACKAGES.get(name, name)}=={version}" for name, version in PEERS.items()), *FURTHER]
    stamp = home / "installed.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted], check=True)
        stamp.write_text(json.dumps(wanted))
    return str(python)


@contextmanager
def database(name: str) -> Iterator[str]:
    """An empty database on the same server, dropped afterwards."""
    _drop(name)
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    try:
        yield dsn_of(name)
    finally:
        _drop(name)


def _drop(name: str) -> None:
    """Drop a database. While a worker of autovacuum is in it, whom only a superuser may end, that is refused: it goes by itself."""
    for tries_left in reversed(range(100)):
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        except DatabaseError:
            if not tries_left:
                raise
            time.sleep(0.3)
        else:
            return


def dsn_of(name: str) -> str:
    """The address of a database on the server that we use."""
    own = connection.settings_dict
    user = own["USER"] + (f":{own['PASSWORD']}" if own["PASSWORD"] else "")
    return f"postgresql://{user}@{own['HOST']}:{own['PORT']}/{name}"
