"""Verbs of two people at once: what is published is what was decided, whoever commits last."""

import threading

import pytest
from django.db import DataError, connection, transaction
from django.utils import timezone

from accounts.models import Application, User
from clusters import services as clusters
from consumers import services as groups
from consumers import shadow
from consumers.models import ConsumerGroup, ShadowTask
from core.errors import Problem
from registry.models import Publication, RegistrarHeartbeat
from tests.store_world import Threads, until
from topics import moving
from topics import services as topics

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alice():
    return User.objects.create_superuser("alice", password="correct horse battery")


@pytest.fixture
def other():
    return User.objects.create_superuser("bob", password="correct horse battery")


@pytest.fixture
def kafka(alice):
    return [clusters.create(actor=alice, name=f"kafka-{name}", kind="kafka", address="10.0.0.1:9092") for name in "ab"]


@pytest.fixture
def topic(alice, other, kafka):
    application = Application.objects.create(name="order-service", owner=alice)
    fields = {"owner": alice, "expected_rate": 1, "message_bytes": 100, "partitions": 1, "ordered": False, "reason": "orders"}
    applied = topics.apply(actor=alice, name="order_topic", application=application, **fields)
    return topics.approve(actor=other, topic=applied, cluster=kafka[0])


@pytest.fixture
def group(alice, other, topic):
    fields = {"consume_from": "earliest", "max_attempts": 3, "backoff_ms": 1, "backoff_max_ms": 1, "reason": "bills"}
    applied = groups.apply(
        actor=alice, name="bills", application=topic.application, owner=alice, subscriptions=[(topic.name, "*")], **fields
    )
    return groups.approve(actor=other, group=applied)


def meanwhile(first, second):
    """Begin `second` while `first` is done and not committed; both commit then."""
    threads, done, waiting = Threads(), threading.Event(), []

    def follow():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            waiting.append(cursor.fetchone()[0])
        second()

    def lead():
        with transaction.atomic():
            first()
            threads.start(follow)
            until(lambda: waiting)
            with connection.cursor() as cursor:
                until(lambda: _waits(cursor, waiting[0]))
        done.set()

    lead()
    threads.join()


def _waits(cursor, pid):
    cursor.execute("SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted", [pid])  # pg_stat_activity stands still in a transaction
    return cursor.fetchone()[0]


def node(path="/zms/consumergroup/bills"):
    return bytes(Publication.objects.get(path=path).data)


def test_a_suspension_survives_a_move_of_the_topic_at_the_same_time(alice, kafka, topic, group):
    meanwhile(
        lambda: groups.suspend(actor=alice, group=group, reason="wrong bills"),
        lambda: moving.move(actor=alice, topic=topic, cluster=kafka[1], reason="room"),
    )
    assert b"suspend=true\n" in node()
    assert b"clusterName=kafka-b\n" in node()


def test_a_move_survives_a_suspension_at_the_same_time(alice, kafka, topic, group):
    meanwhile(
        lambda: moving.move(actor=alice, topic=topic, cluster=kafka[1], reason="room"),
        lambda: groups.suspend(actor=alice, group=group, reason="wrong bills"),
    )
    assert b"suspend=true\n" in node()
    assert b"clusterName=kafka-b\n" in node()


def test_a_group_that_is_being_retired_does_not_come_back_when_its_topic_moves(alice, kafka, topic, group):
    RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")
    meanwhile(
        lambda: groups.retire(actor=alice, group=group, reason="no more"),
        lambda: moving.move(actor=alice, topic=topic, cluster=kafka[1], reason="room"),
    )
    assert Publication.objects.get(path="/zms/consumergroup/bills").deleted


def test_a_move_and_a_changed_address_do_not_wait_for_each_other(alice, kafka, topic, group):
    """Both lock the topic's and the group's publication: in one order."""
    order = []
    with connection.execute_wrapper(lambda run, sql, params, many, context: order.append((sql, params)) or run(sql, params, many, context)):
        moving.move(actor=alice, topic=topic, cluster=kafka[1], reason="room")
    sql, params = next((sql, str(params)) for sql, params in order if "FOR UPDATE" in sql and "registry_publication" in sql)
    assert "/zms/consumergroup/bills" in params
    assert "/zms/topic/order_topic" in params
    assert 'ORDER BY "registry_publication"."path" ASC' in sql


def test_a_shadow_group_is_not_switched_on_while_its_group_is_being_retired(alice, topic, group):
    RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")
    task = shadow.create(actor=alice, application=topic.application, task="stress-1", group=group, topic=topic)
    refused = []

    def start():
        try:
            shadow.start(actor=alice, shadow=task, minutes=1, reason="stress")
        except Problem as problem:
            refused.append(problem.code)

    meanwhile(lambda: groups.retire(actor=alice, group=ConsumerGroup.objects.get(pk=group.pk), reason="no more"), start)
    assert refused == ["not_active"]
    assert Publication.objects.get(path=task.zookeeper_path).deleted


def test_a_shadow_lease_that_cannot_be_ended_holds_up_no_other(alice, topic, group, monkeypatch):
    tasks = [
        shadow.create(actor=alice, application=topic.application, task=f"stress-{number}", group=group, topic=topic) for number in range(2)
    ]
    for task in tasks:
        shadow.start(actor=alice, shadow=task, minutes=1, reason="stress")
    ShadowTask.objects.update(lease_until=timezone.now())
    publish = shadow._publish

    def fails_for_the_first(task, change):
        if task.pk == tasks[0].pk:
            raise DataError("poison")
        publish(task, change)

    monkeypatch.setattr(shadow, "_publish", fails_for_the_first)
    shadow.end_expired()
    assert [ShadowTask.objects.get(pk=task.pk).enabled for task in tasks] == [True, False]
