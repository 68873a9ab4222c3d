"""Every generation of what is published is a release: who, why, what stood there, and what came of the same change."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from registry_world import put_cluster, put_topic, why

from clusters import services as clusters
from core.errors import Problem
from registry import releases, services, tasks
from registry.models import Publication, Release
from topics import moving
from topics import services as topics

pytestmark = pytest.mark.django_db


def released(path):
    return list(Release.objects.of(path))


def told(path):
    return [(r.generation, r.kind, r.author_name, r.message) for r in released(path)]


@pytest.fixture
def kafka(admin_person):
    return [
        clusters.create(actor=admin_person, name=name, kind="kafka", address=f"{name}:9092", max_topics=limit)
        for name, limit in (("kafka-a", None), ("kafka-b", 0))
    ]


@pytest.fixture
def topic(application, admin_person, second_person, kafka):
    asked = topics.apply(
        actor=admin_person, name="orders", application=application, owner=admin_person, expected_rate=1, message_bytes=1,
        partitions=1, ordered=False, reason="to sell",
    )  # fmt: skip
    return topics.approve(actor=second_person, topic=asked, cluster=kafka[0], reason="fine")


def test_each_generation_is_one_release_with_its_bytes(admin_person):
    rows = [put_topic(), put_topic(), put_topic(cluster="b")]
    first, second = reversed(released("/zms/topic/orders"))
    assert (first.generation, second.generation) == (1, 2)  # the same content again was none
    assert (bytes(first.data), bytes(second.data)) == (bytes(rows[0].data), bytes(rows[2].data))
    assert (second.kind, second.author_name, second.message, second.format, second.deleted) == (
        "normal",
        "system",
        "a test",
        "properties",
        False,
    )


def test_a_change_says_who_and_why_and_ties_together_what_it_released(topic, admin_person, second_person, kafka):
    assert told("/zms/topic/orders") == [(1, "normal", "bob", "fine")]
    clusters.change(actor=admin_person, cluster=kafka[0], address="other:9092", description="")
    cluster, of_topic = released("/zms/cluster/kafka-a")[0], released("/zms/topic/orders")[0]
    assert (cluster.generation, of_topic.generation, cluster.change == of_topic.change) == (2, 2, True)
    assert cluster.author == admin_person
    assert cluster.message == of_topic.message == "Address of “kafka-a”: kafka-a:9092 became other:9092."


def test_what_is_forced_past_a_warning_is_an_emergency(topic, admin_person, kafka):
    with pytest.raises(Problem) as refused:
        moving.move(actor=admin_person, topic=topic, cluster=kafka[1], reason="kafka-a burns")
    assert refused.value.code == "confirmation_needed"
    assert len(released("/zms/topic/orders")) == 1
    moving.move(actor=admin_person, topic=topic, cluster=kafka[1], reason="kafka-a burns", accept_warnings=True)
    moving.move(
        actor=admin_person, topic=topic, cluster=kafka[0], reason="put out", accept_warnings=True
    )  # of no warning: nothing was forced
    assert told("/zms/topic/orders")[:2] == [(3, "normal", "alice", "put out"), (2, "emergency", "alice", "kafka-a burns")]


def test_retiring_is_a_release_without_data(topic, admin_person):
    services.retract(path="/zms/topic/orders", change=why("not needed", author=admin_person))
    last = released("/zms/topic/orders")[0]
    assert (last.generation, last.deleted, bytes(last.data), last.message) == (2, True, b"", "not needed")
    services.retract(path="/zms/topic/orders", change=why())
    assert len(released("/zms/topic/orders")) == 2


def test_a_refused_change_leaves_no_release():
    put_cluster(name="big")
    with pytest.raises(Problem), transaction.atomic():
        put_cluster(name="big", address="a" * 512 * 1024)
    assert len(released("/zms/cluster/big")) == 1


def test_any_number_of_paths_takes_one_statement():
    put_cluster()
    paths = [put_topic(name=f"t{n}").path for n in range(20)]
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert services.republish(paths=paths, change=why("all of them")) == 20
    assert sum("registry_release" in query["sql"] for query in queries) == 1
    made = Release.objects.filter(message="all of them")
    assert (made.count(), len({one.change for one in made}), made.exclude(generation=F("publication__generation")).count()) == (20, 1, 0)
    assert [bytes(one.data) for one in made.order_by("pk")] == [
        bytes(p.data) for p in Publication.objects.filter(path__in=paths).order_by("path")
    ]


def test_a_generation_cannot_be_released_twice():
    put_topic()
    with pytest.raises(IntegrityError), transaction.atomic():
        releases.record(change=why(), paths=["/zms/topic/orders"])


def test_old_releases_go_except_the_last_of_each_path(monkeypatch):
    monkeypatch.setattr(releases, "KEEP_LAST", 3)
    for number in range(6):
        put_topic(cluster=f"c{number}")
    put_topic(name="quiet")
    Release.objects.update(created_at=timezone.now() - timedelta(days=releases.KEEP_DAYS + 1))
    put_topic(cluster="new")
    tasks.forget_releases()
    assert [r.generation for r in released("/zms/topic/orders")] == [7, 6, 5]
    assert [r.generation for r in released("/zms/topic/quiet")] == [1]
    for number in range(6):
        put_topic(cluster=f"d{number}")
    tasks.forget_releases()
    assert [r.generation for r in released("/zms/topic/orders")] == [13, 12, 11, 10, 9, 8, 7]  # young ones stay, however many
