"""Adopting what others wrote: it becomes a change of the cluster, topic, group or shadow group, with all that a change asks for."""

import pytest
from conftest import Api, token_for
from console_world import group, make_people, topic
from django.test import Client

from accounts.models import Application
from clusters import services as clusters
from clusters.models import Cluster
from consumers import shadow as shadows
from consumers.models import ConsumerGroup
from core.audit.models import AuditEntry
from core.errors import Problem
from mqadmin_sdk.zk import properties
from registry import drift
from registry.models import Drift, Publication, Release
from topics.models import Topic

pytestmark = pytest.mark.django_db


@pytest.fixture
def people():
    return make_people()


@pytest.fixture
def application(people):
    return Application.objects.create(name="order-service", owner=people.alice)


@pytest.fixture
def kafka(people):
    return [clusters.create(actor=people.alice, name=f"kafka-{one}", kind="kafka", address="10.0.0.1:9092") for one in "ab"]


@pytest.fixture
def bill(people, application, kafka):
    topic(people, application, "order_topic", cluster=kafka[0])
    topic(people, application, "other_topic", cluster=kafka[0])
    return group(people, application, "bill_group", [("order_topic", "created")])


def edited(path, *, without=(), data=None, **changes):
    """Somebody else's edit of a node, which waits for a person."""
    row = Publication.objects.get(path=path)
    values = {key.replace("__", "."): value for key, value in changes.items()}
    if data is None:
        found = {**properties.loads(bytes(row.data)), **values}
        data = properties.dumps([(key, value) for key, value in found.items() if key not in without])
    Publication.objects.filter(pk=row.pk).update(
        published_generation=row.generation, drifted_at="2026-11-22T00:00Z", held_at="2026-11-22T00:00Z"
    )
    return Drift.objects.create(
        path=path, edit="changed", incident=f"theirs-{row.generation}", data=data, size=len(data), wanted=row.data, wanted_generation=1,
        outcome="waiting", format=row.format,
    )  # fmt: skip


def refused(**arguments):
    with pytest.raises(Problem) as problem:
        drift.adopt(reason="as they want", **arguments)
    return problem.value


def test_a_clusters_address_is_adopted_and_its_dependants_look_again(people, bill, kafka):
    before = Publication.objects.get(path="/zms/topic/order_topic").generation
    edit = edited("/zms/cluster/kafka-a", bootAddr="10.9.9.9:9092", team="blue")
    made = drift.adopt(actor=people.alice, drift=edit, reason="as they want")
    assert Cluster.objects.get(name="kafka-a").address == "10.9.9.9:9092"
    assert (made.outcome, made.decided_by) == ("adopted", people.alice)
    row = Publication.objects.get(path="/zms/cluster/kafka-a")
    assert (row.overrules, row.is_held, row.foreign_keys) == (edit.incident, False, [["team", "blue"]])
    assert properties.loads(bytes(row.data))["bootAddr"] == "10.9.9.9:9092"
    assert properties.loads(bytes(row.data))["team"] == "blue"
    assert Publication.objects.get(path="/zms/topic/order_topic").generation == before + 1
    assert Release.objects.filter(publication=row).latest("generation").message == "as they want"
    entry = AuditEntry.objects.filter(action="adopt").get()
    assert (entry.before, entry.after) == ({"bootAddr": "10.0.0.1:9092"}, {"bootAddr": "10.9.9.9:9092"})


def test_a_topics_cluster_is_adopted_by_a_move_and_its_groups_follow(people, bill, kafka):
    edit = edited("/zms/topic/order_topic", clusterName="kafka-b", without=("mqadmin.generation", "mqadmin.drainClusters"))
    drift.adopt(actor=people.alice, drift=edit, reason="they moved it")
    assert Topic.objects.get(name="order_topic").cluster == kafka[1]
    assert b"clusterName=kafka-b\n" in bytes(Publication.objects.get(path="/zms/consumergroup/bill_group").data)


def test_a_groups_suspension_attempts_and_subscriptions_are_adopted(people, bill):
    subscriptions = '{"order_topic":"created || paid","other_topic":"*"}'
    edit = edited(bill.zookeeper_path, suspend="true", mqadmin__maxAttempts="7", mqadmin__subscriptions=subscriptions)
    drift.adopt(actor=people.alice, drift=edit, reason="incident 4711")
    found = ConsumerGroup.objects.get(pk=bill.pk)
    assert (found.suspended, found.max_attempts) == (True, 7)
    assert [(row.topic.name, row.tags) for row in found.subscriptions.all()] == [("order_topic", "created || paid"), ("other_topic", "*")]


def test_the_end_of_a_shadow_test_is_adopted(people, application, bill):
    shadow = shadows.create(
        actor=people.alice, application=application, task="stress", group=bill, topic=Topic.objects.get(name="order_topic")
    )
    shadows.start(actor=people.alice, shadow=shadow, minutes=30, reason="rehearsal")
    data = bytes(Publication.objects.get(path=shadow.zookeeper_path).data).replace(b'"enable":"1"', b'"enable":"0"')
    drift.adopt(actor=people.alice, drift=edited(shadow.zookeeper_path, data=data), reason="it hurt")
    shadow.refresh_from_db()
    assert not shadow.enabled


def test_keys_of_others_alone_are_kept_without_a_change_of_the_row(people, kafka):
    version = kafka[0].version
    edit = edited("/zms/cluster/kafka-a", team="blue")
    drift.adopt(actor=people.alice, drift=edit, reason="as they want")
    assert Cluster.objects.get(name="kafka-a").version == version
    row = Publication.objects.get(path="/zms/cluster/kafka-a")
    assert (row.foreign_keys, row.generation, b"team=blue\n" in bytes(row.data)) == ([["team", "blue"]], 2, True)


@pytest.mark.parametrize(
    ("path", "changes", "said"),
    [
        ("/zms/topic/order_topic", {"gatedIps": "10.0.0.1"}, "gatedIps"),
        ("/zms/topic/order_topic", {"type": "queue"}, "type"),
        ("/zms/topic/order_topic", {"without": ("clusterName",)}, "clusterName"),
        ("/zms/consumergroup/bill_group", {"bindingTopic": "other_topic"}, "bindingTopic"),
        ("/zms/cluster/kafka-a", {"serverIps": "10.0.0.9"}, "serverIps"),
        ("/zms/cluster/kafka-a", {"data": b"a=\\u12"}, "not readable"),
        ("/zms/cluster/kafka-a", {"data": b""}, "not readable"),
    ],
)
def test_what_cannot_be_had_is_named_and_nothing_is_done(people, bill, path, changes, said):
    edit = edited(path, **changes)
    before = [(row.path, bytes(row.data), row.held_at) for row in Publication.objects.order_by("path")]
    problem = refused(actor=people.alice, drift=edit)
    assert problem.code == "cannot_be_adopted"
    assert said in str(problem.detail)
    assert [(row.path, bytes(row.data), row.held_at) for row in Publication.objects.order_by("path")] == before
    assert Drift.objects.get(pk=edit.pk).outcome == "waiting"


def test_the_rooms_own_checks_hold(people, bill):
    assert refused(actor=people.alice, drift=edited("/zms/cluster/kafka-a", bootAddr="no address")).code == "invalid_address"
    assert refused(actor=people.alice, drift=edited("/zms/topic/order_topic", clusterName="nowhere")).code == "cannot_be_restored"
    assert refused(actor=people.reader, drift=edited(bill.zookeeper_path, suspend="true")).code == "forbidden"


def test_a_deletion_and_a_settled_edit_cannot_be_adopted(people, kafka):
    gone = Drift.objects.create(path="/zms/cluster/kafka-a", edit="deleted", incident="d", outcome="waiting")
    assert refused(actor=people.alice, drift=gone).code == "cannot_be_adopted"
    edit = edited("/zms/cluster/kafka-a", bootAddr="10.9.9.9:9092")
    Drift.objects.filter(pk=edit.pk).update(outcome="superseded", settled_at="2026-11-22T00:00Z")
    assert refused(actor=people.alice, drift=edit).code == "drift_settled"
    assert Cluster.objects.get(name="kafka-a").address == "10.0.0.1:9092"


def test_adoption_over_rest(people, kafka):
    api = Api(Client(), token_for(people.alice))
    edit = edited("/zms/cluster/kafka-a", bootAddr="10.9.9.9:9092")
    answer = api("POST", f"drift/{edit.pk}/adoption", {"reason": "as they want"})
    assert (answer.status_code, answer.body["outcome"]) == (200, "adopted")
    edit = edited("/zms/cluster/kafka-b", serverIps="10.0.0.9")
    answer = api("POST", f"drift/{edit.pk}/adoption", {"reason": "as they want"})
    assert (answer.status_code, answer.body["errors"][0]["pointer"]) == (409, "/serverIps")
