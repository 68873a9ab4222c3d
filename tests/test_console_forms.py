"""The console's forms: the main job by POST, and every refusal where it belongs, never a 500."""

import re

import pytest
from console_world import PASSWORD, group, instance, make_people, make_world, topic
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse

from accounts.models import Application
from clusters.models import Cluster
from consumers.models import ConsumerGroup, ShadowTask
from core.audit.models import AuditEntry
from registry.models import Publication, RegistrarHeartbeat
from topics.models import Topic

pytestmark = pytest.mark.django_db


def page(name, *args):
    return reverse(f"admin:{name}", args=args)


@pytest.fixture
def people():
    return make_people()


@pytest.fixture
def application(people):
    return Application.objects.create(name="order-service", owner=people.alice)


@pytest.fixture
def alice(people):
    return signed_in(people.alice)


@pytest.fixture
def bob(people):
    return signed_in(people.bob)


def signed_in(person):
    client = Client()
    client.force_login(person)
    return client


def topic_form(people, app, **changes):
    values = {"name": "order_topic", "application": app.pk, "owner": people.alice.pk, "expected_rate": 100, "message_bytes": 1200}
    return {**values, "partitions": 4, "reason": "orders", **changes}


def group_form(people, application, *subscriptions, **changes):
    values = {"name": "bill_group", "application": application.pk, "owner": people.alice.pk, "consume_from": "earliest", "max_attempts": 5}
    values |= {"backoff_ms": 1000, "backoff_max_ms": 60_000, "push_concurrency": 4, "push_timeout_ms": 10_000, "reason": "bills"}
    values |= {"subscriptions-TOTAL_FORMS": len(subscriptions), "subscriptions-INITIAL_FORMS": 0}
    for number, (name, tags) in enumerate(subscriptions):
        values |= {f"subscriptions-{number}-topic": name, f"subscriptions-{number}-tags": tags, f"subscriptions-{number}-DELETE": ""}
    return {**values, **changes}


def said(response):
    return [str(message) for message in get_messages(response.wsgi_request)]


def test_a_topic_is_applied_for_rejected_edited_sent_again_approved_and_moved(people, application, alice, bob):
    made = alice.post(page("topics_apply"), topic_form(people, application))
    assert (made.status_code, made.headers["Location"]) == (302, page("topics_detail", "order_topic"))
    assert "order_topic" in said(made)[0]
    own = alice.get(page("topics_detail", "order_topic")).content.decode()
    assert "You applied for this yourself" in own
    assert bob.post(page("topics_reject", "order_topic"), {"reason": "which key?"}).status_code == 302
    assert "which key?" in alice.get(page("topics_detail", "order_topic")).content.decode()
    changes = topic_form(people, application, expected_rate=7, ordered="on")
    assert alice.post(page("topics_edit", "order_topic"), changes).status_code == 302
    assert alice.post(page("topics_resubmit", "order_topic"), {}).status_code == 302
    assert alice.post(page("topics_edit", "order_topic"), topic_form(people, application, expected_rate=9)).status_code == 302
    builtin = Cluster.objects.get(name="builtin")
    assert bob.post(page("topics_approve", "order_topic"), {"cluster": builtin.pk, "reason": ""}).status_code == 302
    stored = Topic.objects.get(name="order_topic")
    assert (stored.state, stored.expected_rate, stored.ordered, stored.cluster) == ("active", 9, False, builtin)
    assert Publication.objects.get(path="/zms/topic/order_topic").generation == 1
    kafka = alice.post(page("clusters_add"), {"name": "kfk-a", "kind": "kafka", "address": "10.0.0.1:9092", "description": ""})
    assert kafka.headers["Location"] == page("clusters_detail", "kfk-a")
    moved = bob.post(page("topics_move", "order_topic"), {"cluster": Cluster.objects.get(name="kfk-a").pk, "reason": "too big"})
    assert moved.status_code == 302
    assert Topic.objects.get(name="order_topic").cluster.name == "kfk-a"
    actions = list(AuditEntry.objects.filter(kind="topic").order_by("id").values_list("action", flat=True))
    assert actions == ["apply", "reject", "edit", "submit again", "edit", "approve", "move"]


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"name": "order topic"}, "name", "1 to 120 letters"),
        ({"name": "zookeeper"}, "name", "reserved"),
        ({"name": "\x00"}, "name", "Null characters"),
        ({"application": "9999"}, "application", "valid choice"),
        ({"partitions": "0"}, "partitions", "greater than or equal to 1"),
        ({"expected_rate": "-1"}, "expected_rate", "greater than or equal to 0"),
        ({"expected_rate": "many"}, "expected_rate", "whole number"),
        ({"message_bytes": "99999999999999999999"}, "message_bytes", "less than or equal"),
        ({"reason": ""}, "reason", "required"),
    ],
)
def test_a_wrong_topic_is_refused_at_its_field(people, application, alice, changes, field, words):  # noqa: PLR0917 - fixtures and cases
    response = alice.post(page("topics_apply"), topic_form(people, application, **changes))
    assert response.status_code == 200
    assert words in " ".join(response.context["form"].errors[field])
    assert f'id="id_{field}-error"' in response.content.decode()
    assert not Topic.objects.exists()


def test_a_name_that_is_taken_is_said_above_the_form(people, application, alice):
    topic(people, application, "order_topic", state="pending")
    response = alice.post(page("topics_apply"), topic_form(people, application))
    html = response.content.decode()
    assert response.status_code == 200
    assert "There is a topic “order_topic” already." in html
    assert "Choose another name." in html


def test_nobody_approves_their_own_even_by_a_forged_form(people, application, alice):
    topic(people, application, "order_topic", state="pending")
    response = alice.post(page("topics_approve", "order_topic"), {"cluster": Cluster.objects.get(name="builtin").pk})
    assert response.status_code == 200
    assert "You applied for this yourself." in response.content.decode()
    assert Topic.objects.get().state == "pending"


def seen_version(response):
    return re.search(r'name="version" value="(\d+)"', response.content.decode())[1]


def test_what_is_approved_is_what_the_page_showed(people, application, alice, bob):
    alice.post(page("topics_apply"), topic_form(people, application))
    seen = seen_version(bob.get(page("topics_approve", "order_topic")))
    alice.post(page("topics_edit", "order_topic"), topic_form(people, application, partitions="4096"))
    form = {"cluster": Cluster.objects.get(name="builtin").pk, "version": seen}
    assert "Somebody else changed this" in bob.post(page("topics_approve", "order_topic"), form).content.decode()
    assert Topic.objects.get().state == "pending"
    form["version"] = seen_version(bob.get(page("topics_approve", "order_topic")))
    assert bob.post(page("topics_approve", "order_topic"), form).status_code == 302
    alice.post(page("consumers_apply"), group_form(people, application, ("order_topic", "*")))
    seen = seen_version(bob.get(page("consumers_approve", "bill_group")))
    alice.post(page("consumers_edit", "bill_group"), group_form(people, application, ("order_topic", "paid")))
    assert "Somebody else changed this" in bob.post(page("consumers_approve", "bill_group"), {"version": seen}).content.decode()
    assert ConsumerGroup.objects.get().state == "pending"


def test_an_ordered_topic_may_go_to_the_built_in_store(people, application, alice, bob):
    alice.post(page("topics_apply"), topic_form(people, application, ordered="on", order_scope="topic"))
    bob.post(page("topics_approve", "order_topic"), {"cluster": Cluster.objects.get(name="builtin").pk})
    topic = Topic.objects.get()
    assert (topic.state, topic.ordered, topic.order_scope) == ("active", True, "topic")


def test_what_was_decided_meanwhile_is_a_page_and_no_error(people, application, bob):
    topic(people, application, "order_topic")
    for verb in ("topics_approve", "topics_reject", "topics_edit", "topics_resubmit"):
        response = bob.get(page(verb, "order_topic"))
        assert response.status_code == 409
        assert "This cannot be done: it is Active." in response.content.decode()
    response = bob.post(page("topics_reject", "order_topic"), {"reason": "late"})
    assert response.status_code == 200
    assert "This cannot be done" in response.content.decode()


def test_a_topic_in_use_is_not_retired_and_says_who_uses_it(people, application, bob):
    made = topic(people, application, "order_topic")
    group(people, application, "bill_group", [("order_topic", "*")])
    instance(made, app="order-service")
    RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")
    shown = bob.get(page("topics_retire", "order_topic")).content.decode()
    assert "bill_group" in shown
    assert "order-service" in shown
    wrong_name = bob.post(page("topics_retire", "order_topic"), {"confirm_name": "order", "reason": "not needed"})
    assert "This is not the name." in wrong_name.content.decode()
    refused = bob.post(page("topics_retire", "order_topic"), {"confirm_name": "order_topic", "reason": "not needed"})
    html = refused.content.decode()
    assert "is in use; instances online: 1, groups bound: 1" in html
    assert "<b>bill_group</b>" in html
    assert Topic.objects.get().state == "active"


def test_a_topic_that_nobody_uses_is_retired(people, application, bob):
    topic(people, application, "order_topic")
    refused = bob.post(page("topics_retire", "order_topic"), {"confirm_name": "order_topic", "reason": "not needed"})
    assert "nobody knows which instances are online" in refused.content.decode()
    RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")
    done = bob.post(page("topics_retire", "order_topic"), {"confirm_name": "order_topic", "reason": "not needed"})
    assert done.status_code == 302
    assert Topic.objects.get().state == "retired"


def test_a_group_is_applied_for_edited_approved_suspended_resumed_and_retired(people, application, alice, bob):
    topic(people, application, "order_topic")
    topic(people, application, "paid_topic")
    form = group_form(people, application, ("order_topic", "created || paid"), ("", "*"))
    assert alice.post(page("consumers_apply"), form).status_code == 302
    form = group_form(people, application, ("order_topic", "created"), ("paid_topic", ""))
    assert alice.post(page("consumers_edit", "bill_group"), form).status_code == 302
    stored = ConsumerGroup.objects.get()
    assert [(row.topic.name, row.tags) for row in stored.subscriptions.all()] == [("order_topic", "created"), ("paid_topic", "*")]
    assert bob.post(page("consumers_approve", "bill_group"), {"reason": ""}).status_code == 302
    assert bob.post(page("consumers_suspend", "bill_group"), {"reason": ""}).status_code == 200
    assert bob.post(page("consumers_suspend", "bill_group"), {"reason": "billing is down"}).status_code == 302
    assert "billing is down" in bob.get(page("consumers_detail", "bill_group")).content.decode()
    assert ConsumerGroup.objects.get().suspended
    assert bob.post(page("consumers_resume", "bill_group"), {"reason": ""}).status_code == 302
    RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")
    assert bob.post(page("consumers_retire", "bill_group"), {"confirm_name": "bill_group", "reason": "done"}).status_code == 302
    assert ConsumerGroup.objects.get().state == "retired"


@pytest.mark.parametrize(
    ("subscriptions", "words"),
    [
        ([], "Name at least one topic."),
        ([("nope", "*")], "There is no topic “nope”."),
        ([("pending_topic", "*")], "not active"),
        ([("order_topic", "*"), ("order_topic", "a")], "is there twice"),
        ([("order_topic", "a ||")], ""),
    ],
)
def test_a_wrong_subscription_is_refused_in_its_row(people, application, alice, subscriptions, words):
    topic(people, application, "order_topic")
    topic(people, application, "pending_topic", state="pending")
    response = alice.post(page("consumers_apply"), group_form(people, application, *subscriptions))
    assert response.status_code == 200
    assert words in response.content.decode()
    assert "wrongtext" in response.content.decode()
    assert not ConsumerGroup.objects.exists()


def test_a_broken_management_form_is_refused(people, application, alice):
    topic(people, application, "order_topic")
    form = group_form(people, application, ("order_topic", "*"))
    for total in ("", "x", "-1", "99999"):
        assert alice.post(page("consumers_apply"), {**form, "subscriptions-TOTAL_FORMS": total}).status_code == 200
    assert not ConsumerGroup.objects.exists()


def test_a_cluster_is_added_and_its_address_changed_with_all_that_depends_on_it(people, application, alice):
    world_topic = topic(people, application, "order_topic", cluster=None)
    assert world_topic.cluster.name == "builtin"
    for changes, words in (
        ({"address": "nowhere"}, "is not a host and port"),
        ({"name": "a b"}, "1 to 120 letters"),
        ({"kind": "builtin"}, "valid choice"),
        ({"name": "builtin"}, "already"),
    ):
        form = {"name": "kfk-a", "kind": "kafka", "address": "10.0.0.1:9092", "description": "", **changes}
        response = alice.post(page("clusters_add"), form)
        assert response.status_code == 200
        assert words in response.content.decode()
    alice.post(page("clusters_add"), {"name": "kfk-a", "kind": "kafka", "address": "10.0.0.1:9092"})
    topic(people, application, "paid_topic", cluster=Cluster.objects.get(name="kfk-a"))
    assert "1 topic" in alice.get(page("clusters_edit", "kfk-a")).content.decode()
    response = alice.post(page("clusters_edit", "kfk-a"), {"address": "10.0.0.2:9092", "description": "new"})
    assert response.status_code == 302
    assert Publication.objects.get(path="/zms/topic/paid_topic").generation == 2
    refused = alice.post(page("clusters_edit", "builtin"), {"address": "10.0.0.2:9092"})
    assert "has no address" in refused.content.decode()


def test_only_a_rocketmq_cluster_has_proxies(alice):
    form = {"name": "rmq-a", "kind": "kafka", "address": "10.0.0.1:9876", "proxy_address": "10.0.0.1:8081"}
    assert "Only a RocketMQ cluster has proxies." in alice.post(page("clusters_add"), form).content.decode()
    alice.post(page("clusters_add"), {**form, "kind": "rocketmq"})
    assert "10.0.0.1:8081" in alice.get(page("clusters_detail", "rmq-a")).content.decode()
    changed = {"address": "10.0.0.1:9876", "proxy_address": "10.0.0.2:8081", "description": ""}
    assert alice.post(page("clusters_edit", "rmq-a"), changed).status_code == 302
    assert Cluster.objects.get(name="rmq-a").proxy_address == "10.0.0.2:8081"
    alice.post(page("clusters_add"), {"name": "kfk-a", "kind": "kafka", "address": "10.0.0.1:9092"})
    assert "Proxy address" not in alice.get(page("clusters_edit", "kfk-a")).content.decode()


def test_a_shadow_group_is_added_switched_on_and_off_and_all_are_stopped(people, application, alice):
    order = topic(people, application, "order_topic")
    other = topic(people, application, "other_topic")
    bill = group(people, application, "bill_group", [("order_topic", "*")])
    form = {"application": application.pk, "task": "stress", "group": bill.pk, "topic": other.pk}
    assert "is not subscribed to" in alice.post(page("consumers_shadow_add"), form).content.decode()
    assert alice.post(page("consumers_shadow_add"), {**form, "topic": order.pk}).status_code == 302
    shadow = ShadowTask.objects.get()
    start = page("consumers_shadow_start", shadow.pk)
    assert "Between 1 and 1440 minutes." in alice.post(start, {"minutes": 100_000, "reason": "x"}).content.decode()
    assert alice.post(start, {"minutes": 5, "reason": ""}).status_code == 200
    assert alice.post(start, {"minutes": 5, "reason": "rehearsal"}).status_code == 302
    assert ShadowTask.objects.get().enabled
    RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")
    refused = alice.post(page("consumers_retire", "bill_group"), {"confirm_name": "bill_group", "reason": "done"}).content.decode()
    assert "Shadow groups of “bill_group” are on." in refused
    assert alice.post(page("consumers_shadow_stop", shadow.pk), {"reason": "enough"}).status_code == 302
    assert not ShadowTask.objects.get().enabled
    alice.post(start, {"minutes": 5, "reason": "again"})
    assert "1 shadow group is switched off." in said(alice.post(page("consumers_shadow_stop_all"), {"reason": "enough"}))
    assert not ShadowTask.objects.get().enabled


def test_a_publication_can_be_tried_again(alice):
    row = Publication.objects.get(path="/zms/cluster/builtin")
    Publication.objects.filter(pk=row.pk).update(published_generation=0, last_error="connection lost", attempts=7)
    assert alice.post(page("registry_publication", row.pk)).status_code == 302
    row.refresh_from_db()
    assert row.attempts == 0


def test_forms_need_their_token():
    people = make_people()
    client = Client(enforce_csrf_checks=True)
    login = {"username": "alice", "password": PASSWORD}
    assert client.post(page("login"), login).status_code == 403  # nobody is signed in from another page either
    client.get(page("login"))
    assert client.post(page("login"), {**login, "csrfmiddlewaretoken": client.cookies["csrftoken"].value}).status_code == 302
    assert client.post(page("topics_apply"), {"name": "x"}).status_code == 403
    assert people.alice.is_active


def test_verbs_are_never_done_by_following_a_link():
    world = make_world()
    client = signed_in(world.people.bob)
    for url in (page("topics_retire", "order_topic"), page("consumers_suspend", "bill_group"), page("consumers_shadow_stop_all")):
        client.get(url)
    world.order.refresh_from_db()
    world.bill.refresh_from_db()
    world.shadow.refresh_from_db()
    assert (world.order.state, world.bill.suspended, world.shadow.enabled) == ("active", False, True)
