"""A hundred thousand items while workers are killed: each is done once, or listed as failed with its reason."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from urllib.parse import quote

import psycopg
import pytest
from django.db import connection
from supervised import wait_for

from mqadmin.supervisor import packages
from mqadmin.supervisor.home import CHECKOUT

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
TOPICS, REFUSED, KILLS = 100_000, 25, 6
START = """
import django; django.setup()
from accounts.models import User
from core import bulk
from core.request_context import RequestContext, current
verb = bulk.verb_of("topics", "change-owner")
actor = User.objects.get(username="kill-operator")
current.set(RequestContext(request_id="kill-test", credential="token:mq_kill"))
select = bulk.selected(verb, actor, {"name_contains": "kill-"})
print(bulk.begin(actor=actor, bulk=verb, values={"owner": "kill-heir", "reason": "leaves"}, select=select).pk)
"""
SEED = """
INSERT INTO accounts_user (username, password, is_superuser, is_staff, is_active, first_name, last_name, email, date_joined)
  SELECT n, '!', n = 'kill-operator', false, true, '', '', '', now() FROM unnest(ARRAY['kill-operator', 'kill-heir', 'kill-owner']) n;
INSERT INTO accounts_application (name, owner_id, description, version)
  SELECT 'kill-app', id, '', 1 FROM accounts_user WHERE username = 'kill-owner';
INSERT INTO topics_topic (name, application_id, owner_id, requested_by_id, cluster_id, state, reason, decision_reason, expected_rate,
                          message_bytes, partitions, ordered, version)
  SELECT 'kill-' || lpad(i::text, 6, '0'), a.id, a.owner_id, a.owner_id, c.id,
         CASE WHEN i % {every} = 7 THEN 'pending' ELSE 'active' END, 'r', '', 1, 100, 1, false, 1
    FROM generate_series(0, {topics} - 1) i, accounts_application a, clusters_cluster c WHERE a.name = 'kill-app' AND c.name = 'builtin';
"""


class Stage:
    """A database of its own, a Redis of its own, and the processes that work on them."""

    def __init__(self, home):
        parameters = connection.get_connection_params()
        kept = {name: parameters[name] for name in ("host", "port", "user", "password") if parameters.get(name)}
        self.template = connection.settings_dict["NAME"]
        self.name = f"{self.template}_kill"
        self.admin = psycopg.connect(**kept, dbname="postgres", autocommit=True)
        connection.close()
        self.make_database()
        self.database = psycopg.connect(**kept, dbname=self.name, autocommit=True)
        place = f"{quote(kept['host'], safe='')}:{kept['port']}" if kept.get("port") else quote(kept.get("host", ""), safe="")
        person = kept["user"] + (f":{quote(kept['password'], safe='')}" if "password" in kept else "")
        self.socket = home / "redis.sock"
        self.env = {
            **os.environ,
            "DATABASE_URL": f"postgres://{person}@{place}/{self.name}",
            "CELERY_BROKER_URL": f"redis+socket://{self.socket}",
            "DJANGO_SETTINGS_MODULE": "mqadmin.settings",
            "MQADMIN_LOG_LEVEL": "ERROR",
        }
        self.logs = (home / "processes.log").open("wb")
        self.processes = []
        self.start([packages.find().redis, "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(home)])
        wait_for(self.socket.exists, 20, "Redis")

    def make_database(self):
        """As the tests' own is, without what other tests do meanwhile; a waiting listener of ours comes back by itself."""
        self.admin.execute(f'DROP DATABASE IF EXISTS "{self.name}" WITH (FORCE)')

        def copied():
            self.admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (self.template,))
            with contextlib.suppress(psycopg.errors.ObjectInUse):
                self.admin.execute(f'CREATE DATABASE "{self.name}" TEMPLATE "{self.template}"')
                return True

        wait_for(copied, 30, "the database")

    def start(self, argv):
        process = subprocess.Popen(argv, cwd=CHECKOUT, env=self.env, stdout=self.logs, stderr=self.logs, start_new_session=True)
        self.processes.append(process)
        return process

    def worker(self):
        return self.start(
            [sys.executable, "-m", "celery", "-A", "mqadmin", "--quiet", "--skip-checks", "worker", "--concurrency", "2",
             "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
        )  # fmt: skip

    def kill(self, process):
        """The parent and its children at once, as a machine that loses its power."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def rows(self, sql, *values):
        return self.database.execute(sql, values).fetchall()

    def end(self):
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                self.kill(process)
        self.logs.close()
        self.database.close()
        self.admin.execute(f'DROP DATABASE IF EXISTS "{self.name}" WITH (FORCE)')
        self.admin.close()


@pytest.fixture
def stage(store, tmp_path):
    made = Stage(tmp_path)
    try:
        yield made
    finally:
        made.end()


def test_a_hundred_thousand_items_survive_workers_that_are_killed(stage):
    stage.database.execute(SEED.format(topics=TOPICS, every=TOPICS // REFUSED))
    # The index for searching the audit costs more than all the rest together, and is no matter here.
    stage.database.execute("DROP INDEX IF EXISTS audit_search")
    began = time.monotonic()
    said = subprocess.run([sys.executable, "-c", START], cwd=CHECKOUT, env=stage.env, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    operation = int(said.stdout.split()[-1])
    frozen = time.monotonic() - began
    assert stage.rows("SELECT total, state FROM operations_operation WHERE id = %s", operation) == [(TOPICS, "queued")]

    stage.start([sys.executable, "manage.py", "beat", "--skip-checks"])
    workers = [stage.worker(), stage.worker()]
    began, kills, at = time.monotonic(), 0, TOPICS // (KILLS + 2)

    def settled():
        return stage.rows("SELECT done + failed, state FROM operations_operation WHERE id = %s", operation)[0]

    while True:
        count, state = settled()
        if state not in {"queued", "running"}:
            break
        if kills < KILLS and count >= at * (kills + 1):
            victim = workers.pop(0)
            stage.kill(victim)
            workers.append(stage.worker())
            kills += 1
        assert time.monotonic() - began < 500, (count, state)
        time.sleep(0.01)
    took = time.monotonic() - began
    print(json.dumps({"frozen_s": round(frozen, 1), "done_s": round(took, 1), "kills": kills}))

    assert kills == KILLS
    ((state, total, done, failed, skipped),) = stage.rows(
        "SELECT state, total, done, failed, skipped FROM operations_operation WHERE id = %s", operation
    )
    assert (state, total, done, failed, skipped) == ("partial", TOPICS, TOPICS - REFUSED, REFUSED, 0)
    items = dict(stage.rows("SELECT state, count(*) FROM operations_operationitem WHERE operation_id = %s GROUP BY state", operation))
    assert items == {"done": done, "failed": failed}
    reasons = stage.rows(
        "SELECT i.code, t.state, count(*) FROM operations_operationitem i JOIN topics_topic t ON t.name = i.key"
        " WHERE operation_id = %s AND i.state = 'failed' GROUP BY 1, 2",
        operation,
    )
    assert reasons == [("wrong_state", "pending", REFUSED)]
    # once, and only once: an effect is an audit entry, a new owner and one version more
    entries = stage.rows(
        "SELECT count(*), count(DISTINCT name), min(actor_name), max(actor_name), min(request_id) FROM audit_auditentry"
        " WHERE action = 'change owner' AND name LIKE 'kill-%%'"
    )
    uid = stage.rows("SELECT uid::text FROM operations_operation WHERE id = %s", operation)[0][0]
    assert entries == [(done, done, "kill-operator", "kill-operator", f"operation:{uid}")]
    heirs = stage.rows(
        "SELECT count(*), min(t.version), max(t.version) FROM topics_topic t JOIN accounts_user u ON u.id = t.owner_id"
        " WHERE u.username = 'kill-heir' AND t.name LIKE 'kill-%%'"
    )
    assert heirs == [(done, 2, 2)]


FLEET = 2500
FLEET_START = """
import django; django.setup()
from django.db import transaction
from accounts.models import Application, User
from clusters import services as clusters
from clusters.models import Cluster
from consumers.models import ConsumerGroup, Subscription
from consumers.services import nodes_of
from registry import services as registry
from registry.releases import Change
from topics import fleet
from topics.models import Topic
from topics.services import node_of
actor = User.objects.create_superuser("fleet-operator")
application = Application.objects.create(name="fleet-app", owner=actor)
lost, other = (clusters.create(actor=actor, name=n, kind="kafka", address=n + ":9092") for n in ("fleet-lost", "fleet-other"))
common = dict(application=application, owner=actor, requested_by=actor, state="active", reason="r")
topics = Topic.objects.bulk_create(
    Topic(name=f"fleet-{i:05}", cluster=lost, expected_rate=1, message_bytes=100, **common) for i in range(%d))
groups = ConsumerGroup.objects.bulk_create(ConsumerGroup(name=f"fleet-{i:05}", **common) for i in range(0, len(topics), 10))
Subscription.objects.bulk_create(Subscription(group=g, topic=t, position=0) for g, t in zip(groups, topics[::10]))
change = Change(author=actor, message="r")
registry.publish_many([node_of(topic) for topic in topics], change=change)
registry.publish_many(nodes_of([group.name for group in groups]), change=change)
print(fleet.start(actor=actor, source=lost, cluster=other, reason="it is lost").pk)
"""
FLEET_WORKER = """
import django; django.setup()
import time
from core.operations import driving
while True:
    driving.drive() or time.sleep(0.02)
"""
# What is done must be done as a whole: the item, the topic, its node, its release, its audit entry, and the nodes of its groups.
HALF_MOVED = """
SELECT count(*) FILTER (WHERE moved), count(*) FILTER (WHERE moved IS DISTINCT FROM all_of_it)
  FROM (SELECT i.state = 'done' AS moved,
               t.version = 2 AND c.name = 'fleet-other'
               AND p.generation = 2 AND convert_from(p.data, 'UTF8') LIKE 'clusterName=fleet-other%%'
               AND EXISTS (SELECT 1 FROM registry_release r WHERE r.publication_id = p.id AND r.generation = 2)
               AND (SELECT count(*) FROM audit_auditentry a WHERE a.action = 'move' AND a.name = t.name) = 1
               AND (g.id IS NULL OR g.generation = 2 AND convert_from(g.data, 'UTF8') LIKE 'clusterName=fleet-other%%') AS all_of_it
          FROM operations_operationitem i
          JOIN topics_topic t ON t.name = i.key
          JOIN clusters_cluster c ON c.id = t.cluster_id
          JOIN registry_publication p ON p.path = '/zms/topic/' || t.name
          LEFT JOIN registry_publication g ON g.path = '/zms/consumergroup/' || t.name
         WHERE i.operation_id = %s) AS items
"""


def test_a_fleet_move_whose_workers_are_killed_leaves_nothing_half_moved_and_goes_on(stage):
    said = subprocess.run(
        [sys.executable, "-c", FLEET_START % FLEET], cwd=CHECKOUT, env=stage.env, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    operation = int(said.stdout.split()[-1])
    assert stage.rows(HALF_MOVED, operation) == [(0, 0)]

    def moved():
        ((done, half),) = stage.rows(HALF_MOVED, operation)
        assert half == 0
        return done

    for kill in (1, 2):
        worker = stage.start([sys.executable, "-c", FLEET_WORKER])
        wait_for(lambda kill=kill: moved() >= kill * FLEET // 5, 60, "some topics to be moved")
        stage.kill(worker)
        assert moved() < FLEET
    stage.start([sys.executable, "-c", FLEET_WORKER])
    wait_for(lambda: stage.rows("SELECT state FROM operations_operation WHERE id = %s", operation) == [("succeeded",)], 60, "the end")
    assert moved() == FLEET
