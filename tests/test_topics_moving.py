"""Moving many topics at once: the same as one by one, in few statements; everything on a cluster as one operation."""

import random
from types import SimpleNamespace

import pytest
from console_world import group, instance, make_people, topic
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from operations_world import run
from supervised import wait_for

from accounts.models import Application
from clusters import services as clusters
from clusters.models import Cluster
from core.audit.models import AuditEntry
from core.errors import Problem
from core.operations.models import Operation, OperationItem
from registry import gates
from registry.models import Publication, RegistrarHeartbeat, Release
from topics.models import Draining, Topic
from topics.moving import move, move_many

pytestmark = pytest.mark.django_db
GROUPS = "/zms/consumergroup/"


@pytest.fixture
def world():
    people = make_people()
    application = Application.objects.create(name="order-service", owner=people.alice)
    made = {
        "a": clusters.create(actor=people.alice, name="kfk-a", kind="kafka", address="10.0.0.1:9092"),
        "b": clusters.create(actor=people.alice, name="kfk-b", kind="kafka", address="10.0.0.2:9092"),
        "r": clusters.create(actor=people.alice, name="rocket", kind="rocketmq", address="10.0.0.3:9876"),
        "builtin": Cluster.objects.get(name="builtin"),
    }
    return SimpleNamespace(people=people, application=application, **made)


def some_topics(world, count, cluster, prefix="t"):
    """Active topics with their nodes, and a group on every third of them."""
    names = [f"{prefix}{i:04}" for i in range(count)]
    made = [topic(world.people, world.application, name, cluster=cluster) for name in names]
    for name in names[::3]:
        group(world.people, world.application, f"g_{name}", [(name, "*")])
    return made


def at_random(world, dice):
    """Topics of every sort on every cluster, groups on one or several of them, instances."""
    places, names = [world.a, world.b, world.r, world.builtin], []
    for number in range(dice.randint(4, 14)):
        name = f"t{number:02}"
        names.append(name)
        made = topic(
            world.people, world.application, name, state=dice.choice(["active"] * 6 + ["pending", "rejected"]), cluster=dice.choice(places)
        )
        changes = {"expected_rate": dice.randint(1, 400), "ordered": dice.random() < 0.3, "max_backlog": dice.choice([0, 0, 5])}
        Topic.objects.filter(pk=made.pk).update(**changes)
        if dice.random() < 0.3:
            instance(made, number=number + 1, plain=dice.random() < 0.5)
    active = list(Topic.objects.filter(state="active").select_related("cluster"))
    for number in range(dice.randint(0, 6)):
        chosen = dice.sample(active, min(len(active), dice.randint(1, 3)))
        in_store = all(one.cluster.kind == "builtin" for one in chosen)
        tags = "~^a" if in_store and dice.random() < 0.5 else dice.choice(["*", "a || b"])
        made = group(world.people, world.application, f"g{number}", [(one.name, tags) for one in chosen])
        if dice.random() < 0.3:
            instance(made, number=100 + number, plain=dice.random() < 0.5)
    if dice.random() < 0.5:
        Cluster.objects.filter(pk=world.b.pk).update(max_rate=dice.randint(100, 1500), max_topics=dice.choice([None, 4, 8]))
    return names


def everything():
    """All that a move may change, without clocks and numbers of rows.

    A group with several topics is published once for all that move together, and maybe once for each that moves alone: of groups only what
    stands there in the end is the same.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT t.name, m.ordering FROM mq_topic m JOIN topics_topic t ON t.id = m.topic_id ORDER BY 1")
        orders = cursor.fetchall()
    nodes = Publication.objects.order_by("path").values_list("path", "generation", "data", "requires", "deleted", "published_generation")
    entries = AuditEntry.objects.filter(action="move").values_list("name", "before", "after", "reason", "actor_name")
    releases = Release.objects.order_by("publication__path", "generation")
    made = [(*row, bytes(data)) for *row, data in releases.values_list("publication__path", "generation", "kind", "message", "data")]
    return (
        [row for row in made if not row[0].startswith(GROUPS)],
        list(Draining.objects.values_list("topic__name", "cluster__name", "cluster__kind").order_by("topic__name", "cluster__name")),
        list(Topic.objects.order_by("name").values_list("name", "state", "version", "cluster__name")),
        [(path, *numbered(path, generation, bytes(data)), requires, *rest) for path, generation, data, requires, *rest in nodes],
        sorted(map(repr, entries)),
        orders,
    )


def numbered(path, generation, data):
    """A generation and the bytes that carry it, of a group the bytes without it."""
    return (None, data.replace(b"mqadmin.generation=%d\n" % generation, b"")) if path.startswith(GROUPS) else (generation, data)


def undone(work):
    """What came of some work, which is then forgotten."""
    with transaction.atomic():
        results = work()
        found = everything()
        transaction.set_rollback(True)
    return results, found


@pytest.mark.parametrize("seed", range(6))
def test_many_at_once_are_the_same_as_one_by_one(world, seed):
    dice = random.Random(seed)
    names = at_random(world, dice)
    target, accept = dice.choice([world.b, world.b, world.builtin, world.r]), dice.random() < 0.4
    dice.shuffle(names)

    def read():
        return sorted(Topic.objects.select_related("cluster"), key=lambda one: names.index(one.name))

    def one_by_one():
        results = []
        for one in read():
            try:
                with transaction.atomic():
                    move(actor=world.people.bob, topic=one, cluster=target, reason="lost", accept_warnings=accept)
                results.append(None)
            except Problem as problem:
                results.append((problem.code, str(problem.detail)))
        return results

    def together():
        problems = move_many(actor=world.people.bob, topics=read(), cluster=target, reason="lost", accept_warnings=accept)
        return [problem and (problem.code, str(problem.detail)) for problem in problems]

    before = everything()
    expected = undone(one_by_one)
    assert undone(together) == expected, f"seed {seed}"
    assert expected[1] != before or all(expected[0])


def test_the_number_of_statements_does_not_grow_with_the_topics(world):
    some_topics(world, 40, world.a)

    def statements(topics):
        with (
            CaptureQueriesContext(
                connection,
            ) as seen,
            transaction.atomic(),
        ):
            results = move_many(actor=world.people.bob, topics=topics, cluster=world.b, reason="lost")
            transaction.set_rollback(True)
        assert results == [None] * len(topics)
        return len(seen)

    few, many = (list(Topic.objects.filter(cluster=world.a).select_related("cluster").order_by("name")[:count]) for count in (4, 40))
    assert statements(many) == statements(few) < 35


def test_of_two_who_move_a_topic_at_once_the_second_is_told(world):
    first, second = some_topics(world, 2, world.a)
    Topic.objects.filter(pk=second.pk).update(version=7)
    problems = move_many(actor=world.people.bob, topics=[first, second], cluster=world.b, reason="lost")
    assert [problem and problem.code for problem in problems] == [None, "state_changed"]
    assert Topic.objects.get(pk=second.pk).cluster == world.a


def test_the_room_of_a_cluster_is_given_to_the_first_ones_and_the_others_say_why(world):
    some_topics(world, 3, world.a)
    Cluster.objects.filter(pk=world.b.pk).update(max_topics=2)
    topics = list(Topic.objects.filter(cluster=world.a).select_related("cluster").order_by("name"))
    problems = move_many(actor=world.people.bob, topics=topics, cluster=world.b, reason="lost")
    assert [problem and problem.code for problem in problems] == [None, None, "confirmation_needed"]
    assert "Topics would be 3 of at most 2" in problems[2].detail


def test_plain_clients_stand_in_the_way_of_another_kind_of_broker_only(world, api):
    (one,) = some_topics(world, 1, world.a)
    instance(one, plain=True)
    instance(SimpleNamespace(zookeeper_path="/zms/consumergroup/g_t0000"), number=2, plain=True)
    refused = api("POST", "topics/t0000/moves", {"cluster": "rocket", "reason": "lost"})
    assert (refused.status_code, refused.body["code"]) == (409, "confirmation_needed")
    assert "10.0.0.1, 10.0.0.2" in refused.body["warnings"][0]
    assert api("POST", "topics/t0000/moves", {"cluster": "kfk-b", "reason": "lost"}).status_code == 200
    assert api("POST", "topics/t0000/moves", {"cluster": "rocket", "reason": "lost", "accept_warnings": True}).status_code == 200


def test_groups_that_may_have_no_queue_on_rabbitmq_stand_in_the_way_unless_they_were_seen_there(world, api):
    alice = world.people.alice
    rabbit = clusters.create(actor=alice, name="rabbit", kind="rabbitmq", address="10.0.0.4:5672")
    alone, shared = some_topics(world, 2, world.a)
    assert api("POST", f"topics/{alone.name}/moves", {"cluster": "rabbit", "reason": "one group"}).status_code == 200
    for name in ("bills", "news"):
        group(world.people, world.application, name, [(shared.name, "*")])
    body = {"cluster": "rabbit", "reason": "two groups"}
    refused = api("POST", f"topics/{shared.name}/moves", body)
    assert (refused.status_code, refused.body["code"]) == (409, "confirmation_needed")
    assert "a queue there: bills, news may miss" in refused.body["warnings"][0]
    for name in ("bills", "news"):
        gates.gate(actor=alice, path=GROUPS + name, cluster=rabbit.name, labels={"zone": "a"}, reason="make the queue")
    assert api("POST", f"topics/{shared.name}/moves", body).status_code == 200


@pytest.fixture
def api(world):
    from conftest import Api, token_for
    from django.test import Client

    return Api(Client(), token_for(world.people.alice))


def test_everything_on_a_cluster_moves_with_a_plan_before_and_a_reason_for_what_stays(world, api):
    some_topics(world, 5, world.a)
    RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")
    instance(Topic.objects.get(name="t0001"))
    Cluster.objects.filter(pk=world.b.pk).update(max_topics=4)
    body = {"cluster": "kfk-b", "reason": "kfk-a is lost", "rate": 1000}
    rehearsed = api("POST", "clusters/kfk-a/moves?dry_run=true", body)
    plan = rehearsed.body["result"]["plan"]
    told = {key: plan[key] for key in ("topics", "movable", "refused_count", "groups", "instances", "plain_clients")}
    assert told == {"topics": 5, "movable": 4, "refused_count": 1, "groups": 2, "instances": 1, "plain_clients": 0}
    assert [(one["name"], one["code"]) for one in plan["refused"]] == [("t0004", "confirmation_needed")]
    assert (Operation.objects.count(), Topic.objects.filter(cluster=world.b).count()) == (0, 0)
    started = api("POST", "clusters/kfk-a/moves", body)
    assert (started.status_code, started.body["plan"]) == (202, plan)
    assert started.headers["Location"].endswith(started.body["operation"]["id"])
    done = wait_for(lambda: (ended := run(Operation.objects.get())).state != "running" and ended, 30, "the end of a paced operation")
    assert (done.kind, done.state, done.done, done.failed, done.params["rate"]) == ("topics.move", "partial", 4, 1, 1000)
    item = OperationItem.objects.get(state="failed")
    assert (item.key, item.code) == ("t0004", "confirmation_needed")
    assert set(Topic.objects.filter(cluster=world.b).values_list("name", flat=True)) == {f"t000{i}" for i in range(4)}
    node = bytes(Publication.objects.get(path="/zms/consumergroup/g_t0003").data)
    assert b"clusterName=kfk-b\n" in node
    assert b"mqadmin.generation=2\n" in node


@pytest.mark.parametrize(
    ("address", "body", "status", "code"),
    [
        ("clusters/kfk-a/moves", {"cluster": "kfk-a", "reason": "r"}, 409, "same_cluster"),
        ("clusters/kfk-b/moves", {"cluster": "kfk-a", "reason": "r"}, 409, "nothing_to_move"),
        ("clusters/kfk-a/moves", {"cluster": "kfk-b", "reason": " "}, 400, "invalid"),
        ("clusters/kfk-a/moves", {"cluster": "kfk-b", "reason": "r", "rate": 0}, 400, "invalid"),
        ("clusters/kfk-a/moves", {"cluster": "nowhere", "reason": "r"}, 400, "invalid"),
        ("clusters/nowhere/moves", {"cluster": "kfk-b", "reason": "r"}, 404, "not_found"),
    ],
)
def test_a_fleet_move_that_makes_no_sense_is_refused(world, api, address, body, status, code):  # noqa: PLR0917 - fixtures and cases
    some_topics(world, 1, world.a)
    refused = api("POST", address, body)
    assert (refused.status_code, refused.body["code"]) == (status, code), refused.body


def test_the_page_shows_the_plan_and_does_what_was_shown(world, client):
    some_topics(world, 2, world.a)
    client.force_login(world.people.bob)
    address = reverse("admin:topics_move_all", args=["kfk-a"])
    assert address in client.get(reverse("admin:clusters_detail", args=["kfk-a"])).content.decode()
    fields = {"cluster": "kfk-b", "reason": "lost"}
    shown = client.post(address, fields)
    assert "Move 2 topics" in shown.content.decode()
    assert Operation.objects.count() == 0
    fields |= {"confirm": "1", "shown": shown.context["shown"]}
    some_topics(world, 1, world.a, prefix="later")
    assert "Move 3 topics" in client.post(address, fields).content.decode()  # no longer what was shown
    fields["shown"] = "kfk-b=3=3"
    started = client.post(address, fields)
    operation = Operation.objects.get()
    assert started.headers["Location"] == reverse("admin:operations_detail", args=[operation.uid])
    assert run(operation).state == "succeeded"
    assert Topic.objects.filter(cluster=world.b).count() == 3
