"""Gated releases: some instances on another cluster, by address or label; promoted for all, or abandoned with proof that they are back."""

import pytest
from console_world import group as make_group
from console_world import instance as make_instance
from console_world import make_people
from console_world import topic as make_topic
from django.test import Client
from django.urls import reverse

from accounts.models import Application
from clusters import services as clusters
from clusters.models import Cluster
from core.audit.models import AuditEntry
from core.errors import Problem
from registry import gates, rollbacks, tasks
from registry.models import Gate, Instance, Publication, RegistrarHeartbeat, Release
from tests.conftest import Api, token_for
from topics import moving
from topics import services as topics
from topics.models import Topic

pytestmark = pytest.mark.django_db
PATH, GROUP = "/zms/topic/orders", "/zms/consumergroup/bills"


@pytest.fixture
def people():
    return make_people()


@pytest.fixture
def world(people):
    application = Application.objects.create(name="order-service", owner=people.alice)
    kafka = {n: clusters.create(actor=people.alice, name=n, kind="kafka", address=f"{n}:9092") for n in ("kafka-a", "kafka-b")}
    clusters.create(actor=people.alice, name="rocket", kind="rocketmq", address="rocket:9876")
    topic = make_topic(people, application, "orders", cluster=kafka["kafka-a"])
    group = make_group(people, application, "bills", [("orders", "*")])
    RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")
    return {"application": application, "topic": topic, "group": group, **kafka}


@pytest.fixture
def api(people):
    return Api(Client(), token_for(people.alice))


def opened(people, path=PATH, **changes):
    values = {"cluster": "kafka-b", "ips": ["10.0.0.1"], "reason": "try it"}
    return gates.gate(actor=people.alice, path=path, **{**values, **changes})


def node(path=PATH):
    return bytes(Publication.objects.get(path=path).data).decode()


def written(path=PATH):
    """As if a registrar had written and recorded the last generation."""
    last = Publication.objects.get(path=path).generation
    Publication.objects.filter(path=path).update(published_generation=last)
    Release.objects.filter(publication__path=path, generation=last).update(published_at=gates.Now())


def says(row, **values):
    Instance.objects.filter(pk=row.pk).update(**values)


def status(gate):
    return {member.instance.node: member.status for member in gates.members(gate)}


def test_the_node_says_it_byte_for_byte_and_only_while_it_stands(people, world):
    before = node()
    gate = opened(people, ips=["10.0.0.1", "10.0.0.2"])
    assert node() == (
        "clusterName=kafka-a\ntype=topic\ngatedIps=10.0.0.1,10.0.0.2\ngatedCluster=kafka-b\nstatisticsLogger=disk\n"
        "mqadmin.generation=2\nmqadmin.drainClusters=\n"
    )
    assert "/zms/cluster/kafka-b" in Publication.objects.get(path=PATH).requires
    gates.abandon(actor=people.alice, gate=gate, reason="no")
    assert node() == before.replace("generation=1", "generation=3").replace("drainClusters=", "drainClusters=kafka-b")
    assert Publication.objects.get(path=PATH).requires == ["/zms/cluster/kafka-a", "/zms/cluster/kafka-b"]


def test_labels_stand_in_a_key_of_ours_that_no_other_node_has(people, world):
    assert "gatedLabels" not in node(GROUP)
    opened(people, path=GROUP, ips=[], labels={"zone": "a"})
    assert node(GROUP).endswith('mqadmin.maxAttempts=5\nmqadmin.gatedLabels={"zone"\\:"a"}\n')
    assert "gatedIps=\ngatedCluster=kafka-b\n" in node(GROUP)


def test_each_step_is_a_release_of_its_kind_and_in_the_audit(people, world):
    gate = opened(people)
    gates.abandon(actor=people.bob, gate=gate, reason="it loses messages")
    assert [(r.kind, r.author_name, r.message) for r in Release.objects.of(PATH)[:2]] == [
        ("rollback", "bob", "it loses messages"), ("gated", "alice", "try it"),
    ]  # fmt: skip
    done = AuditEntry.objects.filter(name=PATH).order_by("pk").values_list("action", "reason")
    assert list(done) == [("gate", "try it"), ("abandon", "it loses messages")]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"cluster": ""}, "gated_without_cluster"),
        ({"cluster": "nowhere"}, "invalid"),
        ({"cluster": "kafka-a"}, "same_cluster"),
        ({"ips": []}, "gated_nobody"),
        ({"ips": ["10.0.0.1", "10.0.0.11"]}, "address_contained"),
        ({"ips": ["host one"]}, "invalid"),
        ({"labels": {"zone": ""}}, "invalid"),
        ({"reason": ""}, "reason_required"),
        ({"path": "/zms/cluster/kafka-a"}, "not_gateable"),
        ({"path": "/zms/topic/nothing"}, "not_found"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_done(people, world, changes, code):
    before = node()
    with pytest.raises(Problem) as refused:
        opened(people, **changes)
    assert (refused.value.code, node(), Gate.objects.count()) == (code, before, 0)


def test_producers_are_not_gated_to_the_built_in_store_which_would_refuse_what_they_send(people, world):
    with pytest.raises(Problem, match="takes messages only of topics that are on it"):
        opened(people, cluster="builtin")
    assert "builtin" not in dict(gates.rooms["/zms/topic"].places())
    assert opened(people, GROUP, cluster="builtin").cluster == "builtin"  # a group may pull what is there


@pytest.mark.parametrize("live", ["10.0.0.11", "0.0.0.1"])
def test_an_address_contained_in_that_of_a_live_instance_is_refused_by_name(people, world, live):
    make_instance(world["topic"], ip=live)
    with pytest.raises(Problem) as refused:
        opened(people)
    assert refused.value.code == "address_contained"
    assert set(refused.value.extra["addresses"][0]) == {"10.0.0.1", live}
    Instance.objects.update(online=False)
    assert opened(people).state == "open"


def test_plain_clients_are_not_gated_to_another_kind_of_broker(people, world):
    row = make_instance(world["topic"], ip="10.0.0.1", plain=True)
    with pytest.raises(Problem) as refused:
        opened(people, cluster="rocket")
    assert (refused.value.code, refused.value.extra["instances"]) == ("broker_kind_differs", [row.node])
    says(row, plain=False)
    assert opened(people, cluster="rocket").cluster == "rocket"


def test_while_it_stands_nothing_else_happens_to_the_cluster(people, world):
    gate = opened(people)
    topic = Topic.objects.get(name="orders")
    for refuse in (
        lambda: opened(people),
        lambda: moving.move(actor=people.alice, topic=topic, cluster=world["kafka-b"], reason="r"),
        lambda: topics.retire(actor=people.alice, topic=topic, reason="r"),
        lambda: rollbacks.rollback(actor=people.alice, release=Release.objects.of(PATH).last(), base=2, reason="r"),
    ):
        with pytest.raises(Problem) as refused:
            refuse()
        assert (refused.value.code, refused.value.extra["gate"]) == ("gated", gate.pk)
    with pytest.raises(Problem) as refused:
        clusters.delete(actor=people.alice, cluster=Cluster.objects.get(name="kafka-b"))
    assert (refused.value.code, refused.value.extra["gates"]) == ("in_use", [PATH])


def test_the_gated_clusters_new_address_sets_the_node_again(people, world):
    opened(people)
    clusters.change(actor=people.alice, cluster=Cluster.objects.get(name="kafka-b"), address="new:1", description="")
    assert "mqadmin.generation=3" in node()
    assert "gatedIps=10.0.0.1\n" in node()


def test_promoted_it_is_the_cluster_of_everybody_and_groups_follow(people, world):
    of_topic, of_group = opened(people), opened(people, path=GROUP)
    with pytest.raises(Problem) as refused:
        gates.promote(actor=people.alice, gate=of_group, reason="good")
    assert refused.value.code == "promoted_with_topic"
    done = gates.promote(actor=people.alice, gate=of_topic, reason="good")
    assert (done.state, done.ended_generation, Topic.objects.get(name="orders").cluster.name) == ("promoted", 3, "kafka-b")
    for path in (PATH, GROUP):
        assert "clusterName=kafka-b\n" in node(path)
        assert "gatedIps=\ngatedCluster=\n" in node(path)
    assert Gate.objects.get(pk=of_group.pk).state == "promoted"
    last = Release.objects.of(PATH)[0]
    assert (last.kind, last.change) == ("normal", Release.objects.of(GROUP)[0].change)
    with pytest.raises(Problem) as refused:
        gates.abandon(actor=people.alice, gate=done, reason="late")
    assert refused.value.code == "wrong_state"


def test_a_topic_goes_nowhere_else_while_a_group_of_it_is_gated(people, world):
    opened(people, path=GROUP)
    topic = Topic.objects.get(name="orders")
    with pytest.raises(Problem) as refused:
        moving.move(actor=people.alice, topic=topic, cluster=Cluster.objects.get(name="builtin"), reason="r")
    assert refused.value.code == "gated"
    topic.refresh_from_db()
    moving.move(actor=people.alice, topic=topic, cluster=world["kafka-b"], reason="r")
    assert Gate.objects.get().state == "promoted"


def test_abandoning_ends_when_everybody_is_known_to_be_back(people, world):
    ours = make_instance(world["topic"], number=1, cluster="kafka-a", applied_generation=1)
    other = make_instance(world["topic"], number=22, cluster="kafka-a", applied_generation=1)
    zoned = make_instance(world["topic"], number=33, cluster="kafka-a", applied_generation=1, labels={"zone": "a", "rack": "2"})
    gate = opened(people, labels={"zone": "a"})
    assert status(gate) == {ours.node: "waiting", zoned.node: "waiting"}
    for row in (ours, zoned):
        says(row, cluster="kafka-b", applied_generation=2)
    assert status(gate) == {ours.node: "gated", zoned.node: "gated"}
    gate = gates.abandon(actor=people.alice, gate=gate, reason="no")
    assert (gate.state, status(gate)) == ("abandoning", {ours.node: "gated", zoned.node: "gated"})
    says(ours, cluster="kafka-a", applied_generation=3)
    says(other, applied_generation=3)
    written()
    assert (tasks.prove_gates(), status(gate)) == (0, {zoned.node: "gated", ours.node: "back"})
    says(zoned, cluster="kafka-a", applied_generation=2)  # the right cluster, but of an old generation
    assert tasks.prove_gates() == 0
    says(zoned, online=False, offline_at=gates.Now())
    assert status(gate) == {ours.node: "back", zoned.node: "left"}
    RegistrarHeartbeat.objects.update(watch="none")
    assert tasks.prove_gates() == 0, "nobody watches, so nobody knows"
    RegistrarHeartbeat.objects.update(watch="live")
    assert tasks.prove_gates() == 1
    gate.refresh_from_db()
    assert (gate.state, gate.closed_at is not None) == ("abandoned", True)


def test_it_is_not_proven_before_its_end_stands_in_zookeeper(people, world):
    gate = gates.abandon(actor=people.alice, gate=opened(people), reason="no")
    assert tasks.prove_gates() == 0
    written()
    assert tasks.prove_gates() == 1
    gate.refresh_from_db()
    assert gate.state == "abandoned"


def test_of_a_plain_client_nobody_knows_so_a_person_closes_with_a_reason(people, world):
    plain = make_instance(world["topic"], number=1, plain=True, applied_generation=None, app="", sdk="zms 1")
    gate = gates.abandon(actor=people.alice, gate=opened(people), reason="no")
    written()
    assert (tasks.prove_gates(), status(gate)) == (0, {plain.node: "unknown"})
    with pytest.raises(Problem) as refused:
        gates.close(actor=people.alice, gate=gate, reason=" ")
    assert refused.value.code == "reason_required"
    assert gates.close(actor=people.alice, gate=gate, reason="restarted by hand").state == "closed"
    entry = AuditEntry.objects.get(name=PATH, action="close")
    assert (entry.after, entry.reason) == ({"not_proven": [plain.node]}, "restarted by hand")
    assert opened(people).state == "open"  # the way is free again


def test_a_plain_client_that_was_restarted_is_back(people, world):
    plain = make_instance(world["topic"], number=1, plain=True, applied_generation=None)
    gate = gates.abandon(actor=people.alice, gate=opened(people), reason="no")
    written()
    says(plain, online=False, offline_at=gates.Now())
    make_instance(world["topic"], number=2, ip="10.0.0.1", plain=True, applied_generation=None, online_since=gates.Now() + 2 * gates.MARGIN)
    assert tasks.prove_gates() == 1
    gate.refresh_from_db()
    assert gate.state == "abandoned"


def test_over_rest_from_opening_to_its_end(people, world, api):
    make_instance(world["topic"], number=1, cluster="kafka-b", applied_generation=2)
    body = {"topic": "orders", "cluster": "kafka-b", "ips": ["10.0.0.1"], "labels": {"zone": "a"}, "reason": "try it"}
    assert api("POST", "gates", {**body, "group": "bills"}).status_code == 400
    made = api("POST", "gates", body)
    assert (made.status_code, made.body["state"], made.body["generation"], made.body["opened_by"]) == (201, "open", 2, "alice")
    assert [(m["ip"], m["status"], m["cluster"]) for m in made.body["members"]] == [("10.0.0.1", "gated", "kafka-b")]
    assert [g["id"] for g in api("GET", "gates?topic=orders&state=open").body["results"]] == [made.body["id"]]
    assert api("GET", "gates?group=bills").body["results"] == []
    url = f"gates/{made.body['id']}"
    assert api("POST", f"{url}/closure", {"reason": "r"}).body["code"] == "wrong_state"
    done = api("POST", f"{url}/abandonment", {"reason": "no"}).body
    assert (done["state"], done["ended_generation"], done["members"][0]["status"]) == ("abandoning", 3, "gated")
    assert api("POST", f"{url}/promotion", {"reason": "r"}).body["code"] == "wrong_state"
    assert api("POST", f"{url}/closure", {"reason": "restarted"}).body["state"] == "closed"


def test_a_gated_release_is_not_rolled_back_to(people, world):
    gate = opened(people)
    gates.abandon(actor=people.alice, gate=gate, reason="no")
    gates.close(actor=people.alice, gate=gate, reason="r")
    with pytest.raises(Problem) as refused:
        rollbacks.rollback(actor=people.alice, release=Release.objects.of(PATH)[1], base=3, reason="r")
    assert refused.value.code == "release_was_gated"


def test_in_the_console_live_instances_are_chosen_by_name(people, world):
    make_instance(world["topic"], number=1, app="shop", sdk="python 1.0", labels={"zone": "a"})
    browser = Client()
    browser.force_login(people.alice)
    url = f"{reverse('admin:registry_gate_add')}?path={PATH}"
    assert url in browser.get(reverse("admin:topics_detail", args=["orders"])).content.decode()
    form = browser.get(url).content.decode()
    assert "10.0.0.1 · shop python 1.0 zone=a" in form
    fields = {"cluster": "kafka-b", "instances": ["10.0.0.1"], "more": "", "labels": "", "reason": "try it"}
    wrong = browser.post(url, {**fields, "more": "10.0.0.11"}).content.decode()
    assert "10.0.0.1 is contained in 10.0.0.11" in wrong
    assert "Write name=value" in browser.post(url, {**fields, "labels": "zone"}).content.decode()
    assert not Gate.objects.exists()
    done = browser.post(url, {**fields, "labels": "zone=a, rack=2"})
    gate = Gate.objects.get()
    assert (done.status_code, gate.ips, gate.labels) == (302, ["10.0.0.1"], {"zone": "a", "rack": "2"})
    page = browser.get(reverse("admin:registry_gate", args=[gate.pk]))
    assert [m.status for m in page.context["members"]] == ["waiting"]
    assert "0 of 1 on the gated cluster; 1 not there yet, 0 not reported" in page.content.decode()
    assert browser.get(url).status_code == 409
    assert reverse("admin:registry_gate", args=[gate.pk]) in browser.get(reverse("admin:topics_detail", args=["orders"])).content.decode()
    assert browser.post(reverse("admin:registry_gate_abandon", args=[gate.pk]), {"reason": "no"}).status_code == 302
    abandoned = browser.get(reverse("admin:registry_gate", args=[gate.pk])).content.decode()
    assert "1 still gated" in abandoned
    assert browser.post(reverse("admin:registry_gate_promote", args=[gate.pk]), {"reason": "r"}).status_code == 200
    assert browser.post(reverse("admin:registry_gate_close", args=[gate.pk]), {"reason": "restarted"}).status_code == 302
    gate.refresh_from_db()
    assert gate.state == "closed"
    assert browser.get(reverse("admin:registry_gate", args=[gate.pk])).status_code == 200
