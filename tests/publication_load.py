# ruff: noqa: E402 - Django is set up first
"""Changes of what is published, about 200 a second, as the rooms above make them; a process of its own, on the database of DATABASE_URL.

publication_load.py SEED RATE      until stdin ends; then one line of JSON: path -> the last generation that was committed
publication_load.py verify HOSTS   one line of JSON: what is wrong, path by path
"""

import contextlib
import json
import os
import random
import sys
import threading
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mqadmin.settings")

import django

django.setup()

from django.db import InterfaceError, OperationalError, connection, transaction
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from registry import services
from registry.models import Publication
from registry.releases import Change

CLUSTERS = ("kafka-a", "kafka-b")
TOPICS = [f"t{number}" for number in range(40)]


def put_cluster(name, address, change):
    zms = {"bootAddr": address, "brokerType": "kafka", "serverIps": ""}
    return services.publish_properties(path=f"/zms/cluster/{name}", zms=zms, own={}, change=change)


def put_topic(name, cluster, mark, change):
    zms = {"clusterName": cluster, "type": "topic", "gatedIps": "", "gatedCluster": "", "statisticsLogger": "disk"}
    own = {"mqadmin.drainClusters": mark}
    requires = [f"/zms/cluster/{cluster}"]
    return services.publish_properties(path=f"/zms/topic/{name}", zms=zms, own=own, requires=requires, change=change)


def one(rng, number):
    """One change; the generations that it gave, path by path."""
    change = Change(author=None, message="load")
    what = rng.random()
    if what < 0.01:  # an address changes, and with it everything that depends on the cluster
        cluster = rng.choice(CLUSTERS)
        with transaction.atomic():
            rows = [put_cluster(cluster, f"10.0.0.1:{9000 + number % 1000}", change)]
            depending = [row.path for row in Publication.objects.live().depending_on(rows[0].path)]
            services.republish(paths=depending, change=change)
        return {row.path: row.generation for row in rows}
    name = rng.choice(TOPICS)
    if what < 0.03:
        row = services.retract(path=f"/zms/topic/{name}", change=change)
        return {} if row is None else {row.path: row.generation}
    row = put_topic(name, rng.choice(CLUSTERS), str(number), change)
    return {row.path: row.generation}


class Load:
    """A few threads, each with a connection, that share the rate."""

    def __init__(self, seed, rate, threads=4):
        self.committed, self.made, self.refused = {}, 0, 0
        self.over, self._lock = threading.Event(), threading.Lock()
        self._pause = threads / rate
        self.threads = [threading.Thread(target=self._run, args=(random.Random(seed + number),)) for number in range(threads)]

    def _run(self, rng):
        following = time.monotonic() + rng.random() * self._pause
        while not self.over.wait(max(0.0, following - time.monotonic())):
            following = max(following, time.monotonic() - 0.2) + self._pause
            try:
                given = one(rng, rng.randrange(10**9))
            except (OperationalError, InterfaceError):
                self.refused += 1  # whether it was committed nobody knows
                connection.close()
                continue
            with self._lock:
                self.made += 1
                for path, generation in given.items():
                    self.committed[path] = max(self.committed.get(path, 0), generation)
        connection.close()


def changes(seed, rate):
    for cluster in CLUSTERS:
        put_cluster(cluster, "10.0.0.1:9092", Change(author=None, message="load"))
    load = Load(seed, rate)
    for thread in load.threads:
        thread.start()
    print("changing", flush=True)
    began = time.monotonic()
    sys.stdin.read()
    load.over.set()
    for thread in load.threads:
        thread.join()
    told = {"seconds": time.monotonic() - began, "made": load.made, "refused": load.refused, "committed": load.committed}
    print(json.dumps(told), flush=True)


def verify(hosts):
    """Wait until nothing is due any more, then compare every row with its node, read by kazoo as it comes."""
    until = time.monotonic() + 90
    while time.monotonic() < until:
        with contextlib.suppress(OperationalError, InterfaceError):
            if not Publication.objects.dirty().exists():
                break
            time.sleep(0.1)
            continue
        connection.close()
    client, wrong = KazooClient(hosts), {}
    client.start(timeout=30)
    client.sync("/")
    rows = list(Publication.objects.all())
    for row in rows:
        try:
            data = client.get(row.path)[0]
        except NoNodeError:
            data = None
        if data != (None if row.deleted else bytes(row.data)):
            wrong[row.path] = f"the node holds {data!r}, the row {row.state} at {row.generation}: {row.last_error}"
        elif row.published_generation != row.generation:
            wrong[row.path] = f"recorded is generation {row.published_generation} of {row.generation}: {row.last_error}"
        elif row.last_foreign_edit not in {"", "deleted"}:  # a wipe deletes
            wrong[row.path] = f"taken for a foreign edit: {row.last_foreign_edit}"
    print(json.dumps({"wrong": wrong, "generations": {row.path: row.generation for row in rows}}), flush=True)
    client.stop()


if sys.argv[1] == "verify":
    verify(sys.argv[2])
else:
    changes(int(sys.argv[1]), float(sys.argv[2]))
