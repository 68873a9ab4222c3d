"""Rolling back: what stood in a release is wanted again, in Postgres and so in ZooKeeper, or it is said why that cannot be."""

import pytest
from console_world import group as make_group
from console_world import make_people
from console_world import topic as make_topic
from django.test import Client
from django.urls import reverse

from accounts.models import Application
from clusters import services as clusters
from clusters.models import Cluster
from consumers import services as consumers
from consumers import shadow as shadows
from consumers.models import ConsumerGroup, ShadowTask
from core.audit.models import AuditEntry
from core.errors import Problem
from registry import rollbacks, services
from registry.models import Publication, Release
from tests.conftest import Api, token_for
from topics import draining, moving
from topics import services as topics
from topics.models import Topic

pytestmark = pytest.mark.django_db
PATH = "/zms/topic/orders"


@pytest.fixture
def people():
    return make_people()


@pytest.fixture
def world(people):
    application = Application.objects.create(name="order-service", owner=people.alice)
    kafka = {n: clusters.create(actor=people.alice, name=n, kind="kafka", address=f"{n}:9092") for n in ("kafka-a", "kafka-b")}
    topic = make_topic(people, application, "orders", cluster=kafka["kafka-a"])
    group = make_group(people, application, "bills", [("orders", "created")])
    return {"application": application, "topic": topic, "group": group, **kafka}


@pytest.fixture
def api(people):
    return Api(Client(), token_for(people.alice))


def release(path, generation):
    return Release.objects.get(publication__path=path, generation=generation)


def base(path):
    return Publication.objects.get(path=path).generation


def back(people, path, generation, **more):
    return rollbacks.rollback(
        actor=people.alice, release=release(path, generation), **{"base": base(path), "reason": "it was better", **more}
    )


def keys(path):
    return dict(line.split("=", 1) for line in bytes(Publication.objects.get(path=path).data).decode().splitlines())


def moved(people, world):
    moving.move(actor=people.alice, topic=Topic.objects.get(name="orders"), cluster=world["kafka-b"], reason="more room")


def test_a_topic_goes_back_to_the_cluster_of_the_release_and_its_groups_with_it(people, world):
    moved(people, world)
    made = back(people, PATH, 1)
    assert Topic.objects.get(name="orders").cluster.name == "kafka-a"
    assert (keys(PATH)["clusterName"], keys("/zms/consumergroup/bills")["clusterName"]) == ("kafka-a", "kafka-a")
    assert (made.generation, made.kind, made.author_name, made.message) == (3, "rollback", "alice", "it was better")
    of_group = Release.objects.of("/zms/consumergroup/bills")[0]
    assert (of_group.kind, of_group.change) == ("rollback", made.change)
    done = AuditEntry.objects.filter(name=PATH, action="roll back").get()
    assert (done.after, done.reason) == ({"generation": 3, "as_in": 1}, "it was better")
    assert AuditEntry.objects.filter(kind="topic", name="orders", action="move").count() == 2


def test_a_base_that_is_not_the_latest_is_refused_and_told_which_is(people, world):
    moved(people, world)
    seen = base(PATH)
    moving.move(actor=people.bob, topic=Topic.objects.get(name="orders"), cluster=Cluster.objects.get(name="builtin"), reason="cheaper")
    with pytest.raises(Problem) as refused:
        back(people, PATH, 1, base=seen)
    assert (refused.value.code, refused.value.status) == ("stale_base", 409)
    assert {k: refused.value.extra["latest"][k] for k in ("generation", "author", "message")} == {
        "generation": 3, "author": "bob", "message": "cheaper",
    }  # fmt: skip
    assert Topic.objects.get(name="orders").cluster.name == "builtin"


def test_whoever_is_quicker_between_the_look_and_the_write_wins(people, world, monkeypatch):
    moved(people, world)
    room = rollbacks.rooms["/zms/topic"]

    def late(**fields):
        services.republish(paths=[PATH], change=rollbacks.Change(author=None, message="quicker"))
        room.restore(**fields)

    monkeypatch.setitem(rollbacks.rooms, "/zms/topic", rollbacks.Room(room.permission, late))
    with pytest.raises(Problem) as refused:
        back(people, PATH, 1)
    assert refused.value.code == "stale_base"
    assert Topic.objects.get(name="orders").cluster.name == "kafka-b"


def test_a_group_gets_all_back_that_its_node_said(people, world):
    make_topic(people, world["application"], "more", cluster=world["kafka-a"])
    path, group = "/zms/consumergroup/bills", ConsumerGroup.objects.get(name="bills")
    wanted = consumers.check_subscriptions([("more", "x || y"), ("orders", "*")])
    values = {"max_attempts": 3, "consume_from": "latest"}
    consumers.alter(group=group, values=values, wanted=wanted, change=rollbacks.Change(author=people.alice, message="all"))
    consumers.suspend(actor=people.alice, group=group, reason="billing is down")
    before = keys(path)
    back(people, path, 1)
    group = ConsumerGroup.objects.get(name="bills")
    assert (group.max_attempts, group.consume_from, group.suspended, group.suspend_reason) == (5, "earliest", False, "")
    assert [(s.topic.name, s.tags) for s in group.subscriptions.all()] == [("orders", "created")]
    now = {**keys(path), "mqadmin.generation": "1"}
    assert now == dict(line.split("=", 1) for line in bytes(release(path, 1).data).decode().splitlines())
    back(people, path, 3)
    assert {**keys(path), "mqadmin.generation": "3"} == before
    assert ConsumerGroup.objects.get(name="bills").suspended


def test_a_clusters_address_comes_back_and_its_dependants_are_set_again(people, world):
    clusters.change(actor=people.alice, cluster=world["kafka-a"], address="wrong:1", description="")
    back(people, "/zms/cluster/kafka-a", 1)
    assert Cluster.objects.get(name="kafka-a").address == "kafka-a:9092"
    assert [(r.kind, r.generation) for r in Release.objects.of(PATH)[:2]] == [("rollback", 3), ("normal", 2)]


def test_a_shadow_group_goes_off_again_but_never_on(people, world):
    shadow = shadows.create(actor=people.alice, application=world["application"], task="t", group=world["group"], topic=world["topic"])
    shadows.start(actor=people.alice, shadow=shadow, minutes=5, reason="rehearsal")
    path = shadow.zookeeper_path
    back(people, path, 1)
    assert ShadowTask.objects.get().enabled is False
    with pytest.raises(Problem) as refused:
        back(people, path, 2)
    assert refused.value.code == "cannot_be_restored"


def test_a_group_alone_cannot_go_back_to_where_its_topic_is_no_more(people, world):
    moved(people, world)
    path = "/zms/consumergroup/bills"
    consumers.suspend(actor=people.alice, group=ConsumerGroup.objects.get(name="bills"), reason="down")
    with pytest.raises(Problem) as refused:
        back(people, path, 1)
    assert (refused.value.code, list(refused.value.extra["keys"])) == ("cannot_be_restored", ["clusterName"])
    assert ConsumerGroup.objects.get(name="bills").suspended  # nothing of it was done
    assert back(people, path, 2).generation == 4


@pytest.mark.parametrize("case", ["gone", "latest", "retired", "without_node", "limits", "reason", "permission", "nothing"])
def test_what_cannot_be_restored_is_refused_with_its_reason(people, world, case):
    wanted, more, actor = 1, {}, people.alice
    if case == "gone":
        moved(people, world)
        topic, cluster = Topic.objects.get(name="orders"), Cluster.objects.get(name="kafka-a")
        draining.end(actor=people.alice, topic=topic, cluster=cluster, reason="it is empty")
        clusters.delete(actor=people.alice, cluster=Cluster.objects.get(name="kafka-a"))
    elif case == "limits":
        moved(people, world)
        Cluster.objects.filter(name="kafka-a").update(max_topics=0)
    elif case in {"retired", "without_node"}:
        services.retract(path=PATH, change=rollbacks.Change(author=None, message="gone"))
        if case == "without_node":
            wanted = 2
            topics.publish(Topic.objects.get(name="orders"), rollbacks.Change(author=None, message="back"))
    elif case == "reason":
        moved(people, world)
        more = {"reason": " "}
    elif case == "permission":
        moved(people, world)
        actor = people.reader
    elif case == "nothing":
        services.republish(paths=[PATH], change=rollbacks.Change(author=None, message="again"))
    code = {
        "gone": "cannot_be_restored", "latest": "already_latest", "retired": "node_retired", "without_node": "release_without_node",
        "limits": "confirmation_needed", "reason": "reason_required", "permission": "forbidden", "nothing": "nothing_to_roll_back",
    }[case]  # fmt: skip
    before = base(PATH)
    with pytest.raises(Problem) as refused:
        rollbacks.rollback(actor=actor, release=release(PATH, wanted), **{"base": before, "reason": "r", **more})
    assert (refused.value.code, base(PATH)) == (code, before)
    if case == "limits":
        assert back(people, PATH, 1, accept_warnings=True).kind == "rollback"


def test_over_rest_a_dry_run_shows_what_would_change_and_does_nothing(people, world, api):
    moved(people, world)
    url, body = f"releases/{release(PATH, 1).pk}/rollback", {"base": 2, "reason": "it was better"}
    rehearsed = api("POST", f"{url}?dry_run=true", body)
    assert rehearsed.status_code == 200
    assert rehearsed.body["result"]["differences"] == [
        {"key": "clusterName", "before": "kafka-b", "after": "kafka-a", "mark": "changed"},
        {"key": "mqadmin.drainClusters", "before": "kafka-a", "after": "kafka-b", "mark": "changed"},
    ]
    assert {c["action"] for c in rehearsed.body["changes"]} == {"move", "roll back"}
    assert (base(PATH), Topic.objects.get(name="orders").cluster.name) == (2, "kafka-b")
    done = api("POST", url, body).body
    assert (done["kind"], done["generation"], done["latest"], done["message"]) == ("rollback", 3, True, "it was better")
    again = api("POST", url, body)
    assert (again.status_code, again.body["code"], again.body["latest"]["generation"]) == (409, "stale_base", 3)
    assert api("POST", url, {"base": 3}).status_code == 400


def test_in_the_console_the_difference_is_shown_before(people, world):
    moved(people, world)
    browser = Client()
    browser.force_login(people.alice)
    page = browser.get(reverse("admin:registry_release", args=[release(PATH, 1).pk]))
    url = reverse("admin:registry_rollback", args=[release(PATH, 1).pk])
    assert url in page.content.decode()
    assert (
        url.replace(str(release(PATH, 1).pk), str(release(PATH, 2).pk))
        not in browser.get(reverse("admin:registry_release", args=[release(PATH, 2).pk])).content.decode()
    )
    shown = browser.get(url)
    assert [(d.field, d.before, d.after) for d in shown.context["differences"]] == [("clusterName", "kafka-b", "kafka-a")]
    moving.move(actor=people.bob, topic=Topic.objects.get(name="orders"), cluster=Cluster.objects.get(name="builtin"), reason="cheaper")
    stale = browser.post(url, {"base": 2, "reason": "it was better"})
    assert "not the latest" in stale.content.decode()
    assert [(d.field, d.before) for d in stale.context["differences"]] == [("clusterName", "builtin")]
    assert 'name="base" value="3"' in stale.content.decode()
    done = browser.post(url, {"base": 3, "reason": "it was better"})
    assert done.status_code == 302
    assert Topic.objects.get(name="orders").cluster.name == "kafka-a"
