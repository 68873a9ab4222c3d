"""Policies: which requests they approve, which they leave to people, and that nobody approves their own through one."""

import pytest

from accounts.models import Application
from clusters import services as clusters
from core.approvals import policies, workflow
from core.approvals.models import Policy, Request
from core.audit.models import AuditEntry
from core.errors import Problem
from registry.models import Publication, RegistrarHeartbeat
from tests.approvals_world import active, apply, change, make_people
from topics.models import Topic

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(db):
    return make_people()


def policy(world, name="small", actor=None, **fields):
    return policies.create(actor=actor or world.bob, name=name, **{"kinds": ["topic.create", "topic.change"], **fields})


def test_the_first_policy_that_fits_approves_in_the_same_transaction_and_is_named(world):
    policy(world, "later", position=200)
    policy(world, "first", position=10, max_rate=100, max_partitions=4, max_message_bytes=500)
    topic = apply(world)
    assert (topic.state, topic.cluster.name, topic.decided_by) == ("active", "builtin", None)
    request = Request.objects.get()
    assert (request.state, request.policy, request.decided_by, request.outcome) == ("approved", "first", None, {"cluster": "builtin"})
    assert Publication.objects.filter(path="/zms/topic/order_topic").exists()
    entry = AuditEntry.objects.get(action="approve", name="order_topic")
    assert (entry.actor_name, "first" in entry.reason) == ("system", True)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_rate": 99},
        {"max_partitions": 3},
        {"max_message_bytes": 499},
        {"name_pattern": "pay_*"},
        {"environment": "prod"},
        {"kinds": ["topic.change"]},
        {"enabled": False},
        {"cluster": "nowhere"},
    ],
)
def test_what_does_not_fit_waits_for_a_person(world, fields):
    policy(world, **fields)
    assert (apply(world).state, Request.objects.get().policy) == ("pending", "")


def test_a_policy_of_other_applications_does_not_fit(world):
    from accounts.models import Application

    Application.objects.create(name="pay-service", owner=world.alice)
    policy(world, applications=["pay-service"])
    assert apply(world).state == "pending"
    Policy.objects.get().applications.set([world.application])
    assert apply(world, "other_topic").state == "active"


def test_who_wrote_a_policy_is_not_served_by_it(world):
    policy(world, actor=world.alice)
    assert apply(world).state == "pending"
    assert apply(world, "other_topic", actor=world.bob).state == "active"


def test_a_policy_retires_only_when_it_says_so_expressly(world):
    active(world)
    RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")
    with pytest.raises(Problem) as refused:
        policy(world, kinds=["topic.retire"])
    assert refused.value.errors[0].pointer == "/retirement"
    rule = policy(world, kinds=["topic.retire"], retirement=True)
    Policy.objects.update(retirement=False)
    assert change(world, {}, kind="topic.retire").state == "pending"
    workflow.withdraw(actor=world.alice, request=Request.objects.get(kind="topic.retire"))
    policies.change(actor=world.bob, policy=rule, retirement=True)
    assert change(world, {}, kind="topic.retire").state == "approved"
    assert Topic.objects.get().state == "retired"


def test_what_fits_but_cannot_be_done_is_left_to_a_person(world):
    active(world)
    policy(world, kinds=["topic.retire"], retirement=True)
    request = change(world, {}, kind="topic.retire")  # no registrar watches: nobody knows who is online
    assert (request.state, Topic.objects.get().state) == ("pending", "active")
    assert "small" in request.comments.last().text


def test_a_policy_never_goes_over_a_limit(world):
    builtin = clusters.ensure_builtin()
    clusters.change(actor=world.bob, cluster=builtin, address="", description="", max_rate=150)
    policy(world)
    assert apply(world).state == "active"
    assert apply(world, "second_topic").state == "pending"
    assert change(world, {"expected_rate": 151}).state == "pending"
    workflow.withdraw(actor=world.alice, request=Request.objects.get(kind="topic.change"))
    assert change(world, {"expected_rate": 150}).state == "approved"


def test_a_decline_by_a_person_stands_against_policies(world):
    apply(world)
    workflow.decline(actor=world.bob, request=Request.objects.get(), reason="use the other topic")
    policy(world)
    edited = workflow.edit(actor=world.alice, request=Request.objects.get(), payload={"partitions": 2})
    assert (edited.state, Topic.objects.get().state) == ("pending", "pending")


def test_an_edit_that_makes_it_fit_is_approved(world):
    policy(world, max_rate=50)
    apply(world)
    assert workflow.edit(actor=world.alice, request=Request.objects.get(), payload={"expected_rate": 50}).state == "approved"


def test_a_preview_says_which_policy_and_changes_nothing(world):
    active(world)
    rule = policy(world, max_rate=500)
    entries = AuditEntry.objects.count()
    ask = {"actor": world.alice, "kind": "topic.change", "target": "order_topic"}
    assert policies.preview(**ask, payload={"expected_rate": 200}) == rule
    assert policies.preview(**ask, payload={"expected_rate": 501}) is None
    with pytest.raises(Problem):
        policies.preview(**ask, payload={"expected_rate": 10**9})
    new = {"application": "order-service", "owner": "alice", "expected_rate": 1, "message_bytes": 1}
    assert policies.preview(actor=world.alice, kind="topic.create", target="new_topic", payload=new) == rule
    assert (AuditEntry.objects.count(), Topic.objects.count(), Request.objects.filter(kind="topic.change").exists()) == (entries, 1, False)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("*", "", True), ("order_*", "order_topic", True), ("order_*", "border_topic", False), ("?.b", "a.b", True), ("?.b", "axb", False),
        ("[a]*", "a", False), ("[a]*", "[a]x", True), ("*a*b", "xaxxb", True), ("*a*b", "xaxxbc", False), ("a**b", "ab", True),
        ("*a" * 60, "a" * 240 + "b", False),
    ],
)  # fmt: skip
def test_patterns_are_plain_and_never_slow(pattern, name, fits):
    assert policies.matches(pattern, name) is fits


def test_policies_over_rest(api, api2, topic_fields):
    assert api2("POST", "policies", {"name": "small", "kinds": []}).body["errors"][0]["pointer"] == "/kinds"
    assert api2("POST", "policies", {"name": "small", "kinds": ["tea"]}).body["errors"][0]["pointer"] == "/kinds"
    assert api2("POST", "policies", {"name": "small", "kinds": ["topic.create"], "applications": ["x"]}).status_code == 400
    made = api2("POST", "policies", {"name": "small", "kinds": ["topic.create"], "max_rate": 500, "applications": ["order-service"]})
    assert (made.status_code, made.body["version"], made.body["changed_by"]) == (201, 1, "bob")
    assert api2("POST", "policies", {"name": "small", "kinds": ["topic.create"]}).body["code"] == "duplicate_name"
    assert api("POST", "topics", {"name": "t1", **topic_fields}).body["state"] == "active"
    path = f"policies/{made.body['id']}"
    assert api2("PATCH", path, {"max_rate": 50}).status_code == 428
    changed = api2("PATCH", path, {"max_rate": 50}, **{"If-Match": '"1"'})
    assert (changed.status_code, changed.body["max_rate"], changed.body["kinds"]) == (200, 50, ["topic.create"])
    assert api2("PATCH", path, {"max_rate": 60}, **{"If-Match": '"1"'}).status_code == 412
    assert api("POST", "topics", {"name": "t2", **topic_fields}).body["state"] == "pending"
    assert api2("DELETE", path, **{"If-Match": '"2"'}).status_code == 204
    assert Request.objects.get(target="t1").policy == "small"


def test_one_for_some_applications_hands_nothing_over_to_another(world):
    Application.objects.create(name="other-service", owner=world.bob)
    active(world)
    policy(world, applications=["order-service"])
    request = change(world, {"application": "other-service"})
    assert (request.state, Topic.objects.get().application.name) == ("pending", "order-service")
    workflow.edit(actor=world.alice, request=request, payload={"application": None, "expected_rate": 900})
    assert Request.objects.get(pk=request.pk).state == "approved"
