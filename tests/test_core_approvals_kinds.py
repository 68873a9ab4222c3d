"""What each kind does when it is approved: groups change in the store without losing or repeating, clusters keep their limits."""

import pytest

from accounts.models import Application
from clusters import services as clusters
from clusters.models import Cluster
from consumers.models import ConsumerGroup
from core.approvals import workflow
from core.approvals.models import Request
from core.errors import Problem
from registry.models import Publication
from tests.approvals_world import active, active_group, apply, change, make_people
from tests.store_world import bodies, pull, send, settle, until
from topics import placement, services
from topics.models import Topic


@pytest.fixture
def world():
    return make_people()


def ask(world, payload, **more):
    return change(world, payload, target="bills", kind="group.change", **more)


@pytest.mark.django_db(transaction=True)
def test_a_changed_filter_neither_loses_nor_repeats(world):
    topic = active(world)
    group = active_group(world, subscriptions=[("order_topic", "created")])
    for tag in ("created", "paid"):
        send(topic.pk, f"old {tag}", tag=tag)
    in_hand = pull(group.pk)
    request = ask(world, {"subscriptions": [{"topic": "order_topic", "tags": "created || paid"}]})
    send(topic.pk, "asked", tag="paid")
    workflow.approve(actor=world.bob, request=request)
    send(topic.pk, "new", tag="paid")
    settle(group.pk, in_hand)
    assert bodies(in_hand) == ["old created"]
    got = []

    def arrived():
        batch = pull(group.pk)
        got.extend(bodies(batch))
        if batch.messages:
            settle(group.pk, batch)
        return "new" in got

    until(arrived, seconds=30)
    assert got[-2:] == ["asked", "new"]  # what waits behind the group's position goes by the new filter
    assert "old created" not in got
    node = bytes(Publication.objects.get(path="/zms/consumergroup/bills").data).decode()
    assert "created || paid" in node


@pytest.mark.django_db(transaction=True)
def test_a_dropped_topic_with_waiting_messages_is_accepted_expressly(world):
    topic, other = active(world), active(world, "pay_topic")
    group = active_group(world, subscriptions=[("order_topic", "*"), ("pay_topic", "*")])
    send(topic.pk, "1", "2")
    send(other.pk, "paid")
    request = ask(world, {"subscriptions": [{"topic": "pay_topic", "tags": "*"}], "max_attempts": 7})
    with pytest.raises(Problem) as refused:
        workflow.approve(actor=world.bob, request=request)
    assert (refused.value.code, "order_topic: 2" in refused.value.extra["warnings"][0]) == ("confirmation_needed", True)
    workflow.approve(actor=world.bob, request=request, accept_warnings=True)
    assert bodies(pull(group.pk)) == ["paid"]
    group.refresh_from_db()
    assert (group.max_attempts, [row.topic.name for row in group.subscriptions.all()]) == (7, ["pay_topic"])


@pytest.mark.django_db(transaction=True)
def test_a_new_topic_begins_where_the_group_says(world):
    active(world)
    other = active(world, "pay_topic")
    group = active_group(world, consume_from="latest")
    send(other.pk, "before")
    rows = [{"topic": "order_topic", "tags": "*"}, {"topic": "pay_topic", "tags": "*"}]
    workflow.approve(actor=world.bob, request=ask(world, {"subscriptions": rows}))
    send(other.pk, "after")
    assert bodies(pull(group.pk)) == ["after"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("rows", "pointer"),
    [
        ([], "/subscriptions"),
        (["x"], "/subscriptions/0"),
        ([{"topic": 1}], "/subscriptions/0"),
        ([{"topic": "order_topic", "tags": "a ||"}], "/subscriptions/0/tags"),
        ([{"topic": "nowhere"}], "/subscriptions/0/topic"),
        ([{"topic": "a\x00"}], "/subscriptions/0"),
    ],
)
def test_subscriptions_that_make_no_sense_are_refused_with_their_row(world, rows, pointer):
    active(world)
    active_group(world)
    with pytest.raises(Problem) as refused:
        ask(world, {"subscriptions": rows})
    assert refused.value.errors[0].pointer == pointer


@pytest.mark.django_db
def test_a_developer_asks_only_for_things_of_their_own_applications(world):
    from accounts.models import User
    from accounts.roles import DEVELOPER
    from accounts.rolesync import group_of

    active(world)
    dora = User.objects.create_user("dora", password="correct horse battery")
    dora.groups.add(group_of(DEVELOPER))
    with pytest.raises(Problem) as refused:
        change(world, {"expected_rate": 900}, actor=User.objects.get(username="dora"))
    assert refused.value.code == "unknown_topic", "what is another team's does not exist: neither its state nor its values show"
    Application.objects.update(owner=dora)
    request = change(world, {"expected_rate": 900}, actor=User.objects.get(username="dora"))
    assert list(Request.objects.restrict(User.objects.get(username="dora"))) == list(Request.objects.all())
    with pytest.raises(Problem) as refused:
        workflow.approve(actor=User.objects.get(username="dora"), request=request)
    assert refused.value.code == "forbidden"
    Application.objects.update(owner=world.alice)
    assert [row.pk for row in Request.objects.restrict(User.objects.get(username="dora"))] == [request.pk]


@pytest.mark.django_db
def test_the_least_loaded_cluster_with_known_room_is_recommended(world):
    a = clusters.create(actor=world.bob, name="kafka-a", kind="kafka", address="10.0.0.1:9092", max_rate=1000)
    clusters.create(actor=world.bob, name="kafka-b", kind="kafka", address="10.0.0.2:9092", max_rate=10_000, max_topics=100)
    clusters.create(actor=world.bob, name="kafka-c", kind="kafka", address="10.0.0.3:9092", max_partitions=2)
    services.approve(actor=world.bob, topic=apply(world, "t0"), cluster=a)
    topic = apply(world)
    found = placement.places(topic)
    assert [(one.cluster.name, one.fits, one.known) for one in found] == [
        ("kafka-b", True, True), ("kafka-a", True, True), ("builtin", True, False), ("kafka-c", False, True),
    ]  # fmt: skip
    rate = next(measure for measure in found[1].measures if measure.key == "rate")
    assert (rate.used, rate.after, rate.limit) == (100, 200, 1000)
    ordered = apply(world, "ordered_topic", ordered=True)
    assert "builtin" in [one.cluster.name for one in placement.places(ordered) if one.fits]


@pytest.mark.django_db
def test_without_limits_nobody_knows_and_the_store_comes_first(world):
    clusters.create(actor=world.bob, name="a-kafka", kind="kafka", address="10.0.0.1:9092")
    best = placement.recommended(apply(world))
    assert (best.cluster.name, best.known, best.excess) == ("builtin", False, [])


@pytest.mark.django_db
def test_more_than_the_cluster_takes_is_approved_only_expressly(api, api2, topic_fields):
    made = api2("POST", "clusters", {"name": "kafka-b", "kind": "kafka", "address": "10.0.0.7:9092", "max_rate": 50, "max_topics": 0})
    assert (made.body["max_rate"], made.body["max_partitions"]) == (50, None)
    api("POST", "topics", {"name": "order_topic", **topic_fields})
    number = Request.objects.get().pk
    places = api2("GET", f"requests/{number}/placement").body["places"]
    assert [(one["cluster"], one["recommended"], one["fits"]) for one in places] == [("builtin", True, True), ("kafka-b", False, False)]
    assert next(m for m in places[1]["measures"] if m["measure"] == "rate") == {
        "measure": "rate", "used": 0, "after": 100, "limit": 50, "over": True,
    }  # fmt: skip
    for path, body in [
        (f"requests/{number}/approval", {"values": {"cluster": "kafka-b"}}),
        ("topics/order_topic/approval", {"cluster": "kafka-b"}),
    ]:
        refused = api2("POST", path, body)
        assert (refused.status_code, refused.body["code"], len(refused.body["warnings"])) == (409, "confirmation_needed", 2)
    done = api2("POST", f"requests/{number}/approval", {"values": {"cluster": "kafka-b"}, "accept_warnings": True})
    assert (done.body["state"], Topic.objects.get().cluster.name) == ("approved", "kafka-b")
    assert api2("PATCH", "clusters/kafka-b", {"max_rate": None}, **{"If-Match": "*"}).body["max_rate"] is None
    assert api2("PATCH", "clusters/kafka-b", {"max_rate": -1}, **{"If-Match": "*"}).status_code == 400


@pytest.mark.django_db
def test_many_are_decided_at_once_each_with_its_result(api, api2, topic_fields):
    for name in ("t1", "t2"):
        api("POST", "topics", {"name": name, **topic_fields})
    api2("POST", "topics", {"name": "own", **topic_fields})
    numbers = {request.target: str(request.pk) for request in Request.objects.all()}
    items = [{"name": numbers[name]} for name in ("t1", "t2", "own")] + [{"name": "x"}]
    answer = api2("POST", "bulk/requests", {"action": "approve", "mode": "best_effort", "items": items, "values": {}})
    results = answer.body["results"] if "results" in answer.body else answer.body["items"]
    assert [(one["problem"] or {}).get("code") for one in results] == [None, None, "four_eyes", "not_found"]
    assert sorted(Topic.objects.filter(state="active").values_list("name", "cluster__name")) == [("t1", "builtin"), ("t2", "builtin")]


@pytest.mark.django_db
def test_requests_are_made_for_what_was_applied_for_before_there_were_any(world):
    from importlib import import_module

    from django.apps import apps

    pending, rejected = apply(world), apply(world, "rejected_topic")
    services.reject(actor=world.bob, topic=rejected, reason="no")
    active(world, "active_topic")
    active_group(world, subscriptions=[("active_topic", "*")])
    ConsumerGroup.objects.update(state="pending", version=3)
    Request.objects.all().delete()
    for room in ("topics", "consumers"):
        import_module(f"{room}.migrations.0002_requests").make_requests(apps, None)
    assert sorted(Request.objects.values_list("kind", "target", "state")) == [
        ("group.create", "bills", "pending"), ("topic.create", "order_topic", "pending"), ("topic.create", "rejected_topic", "declined"),
    ]  # fmt: skip
    services.approve(actor=world.bob, topic=pending, cluster=Cluster.objects.get(name="builtin"))
    assert Request.objects.get(target="order_topic").state == "approved"
    assert Request.objects.get(kind="group.create").version == 3
