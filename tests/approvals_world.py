"""What the tests of requests share: two people, an application, an active topic; made through the services."""

from types import SimpleNamespace

from django.db import connection, transaction

from accounts.models import Application, User
from clusters.models import Cluster
from consumers import services as groups
from core.approvals import workflow
from core.errors import Problem
from tests.store_world import Threads, until
from topics import services as topics


def make_people():
    alice = User.objects.create_superuser("alice", email="alice@example.com", password="correct horse battery")
    bob = User.objects.create_superuser("bob", email="bob@example.com", password="correct horse battery")
    return SimpleNamespace(alice=alice, bob=bob, application=Application.objects.create(name="order-service", owner=alice))


def apply(world, name="order_topic", actor=None, **changes):
    fields = {"expected_rate": 100, "message_bytes": 500, "partitions": 4, "ordered": False, "reason": "orders", **changes}
    return topics.apply(actor=actor or world.alice, name=name, application=world.application, owner=world.alice, **fields)


def active(world, name="order_topic", **changes):
    return topics.approve(actor=world.bob, topic=apply(world, name, **changes), cluster=Cluster.objects.get(name="builtin"))


def active_group(world, name="bills", subscriptions=(("order_topic", "*"),), **changes):
    fields = {"consume_from": "earliest", "max_attempts": 3, "backoff_ms": 0, "backoff_max_ms": 0, "reason": "bills", **changes}
    applied = groups.apply(
        actor=world.alice, name=name, application=world.application, owner=world.alice, subscriptions=list(subscriptions), **fields
    )
    return groups.approve(actor=world.bob, group=applied)


def change(world, payload, target="order_topic", kind="topic.change", actor=None):
    return workflow.submit(actor=actor or world.alice, kind=kind, target=target, payload=payload, reason="more")


def meanwhile(first, second):
    """Begin `second` while `first` is done and not committed, then commit; the code of the problem that `second` got, or None."""
    threads, waiting, refused = Threads(), [], []

    def follow():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            waiting.append(cursor.fetchone()[0])
        try:
            second()
            refused.append(None)
        except Problem as problem:
            refused.append(problem.code)

    with transaction.atomic():
        first()
        threads.start(follow)
        until(lambda: waiting, seconds=30)
        with connection.cursor() as cursor:
            until(lambda: waits(cursor, waiting[0]), seconds=30)
    threads.join()
    return refused[0]


def waits(cursor, pid):
    """Whether this connection stands before a lock."""
    cursor.execute("SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted", [pid])
    return cursor.fetchone()[0]
