"""Runs a benchmark in a process of its own, on a database and a ZooKeeper tree of its own, and drops both."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import Row

CHECKOUT = Path(__file__).resolve().parent.parent


def run(module: str, *arguments: str) -> list[Row]:
    """`python -m module arguments` with the environment of that database and tree; it ends in `answer`."""
    from django.conf import settings
    from kazoo.client import KazooClient

    from benchmarks.peers import database

    base, _, chroot = settings.ZOOKEEPER_HOSTS.partition("/")
    top = f"/{chroot}/".replace("//", "/") + f"bench-{secrets.token_hex(4)}"
    root = KazooClient(base)
    root.start(timeout=15)
    root.ensure_path(top)
    try:
        with database(module.replace(".", "_")) as dsn:
            env = {**os.environ, "DATABASE_URL": dsn.replace("postgresql://", "postgres://"), "ZOOKEEPER_HOSTS": f"{base}{top}"}
            env |= {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")]), "MQADMIN_LOG_LEVEL": "WARNING"}
            done = subprocess.run([sys.executable, "-m", module, *arguments], env=env, stdout=subprocess.PIPE, text=True, check=True)
    finally:
        root.delete(top, recursive=True)
        root.stop()
        root.close()
    return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def answer(measure: Callable[[], list[Row]]) -> None:
    """In that process: make the tables, measure, print the rows."""
    import django
    from django.core.management import call_command

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mqadmin.settings")
    django.setup()
    call_command("migrate", interactive=False, verbosity=0)
    print(json.dumps([vars(row) for row in measure()]))
