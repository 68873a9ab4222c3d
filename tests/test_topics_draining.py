"""Clusters that topics have left: named to groups for as long as they may hold messages, and no longer."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from conftest import Api, token_for
from console_world import group, make_people, topic
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from operations_world import run

from accounts.models import Application
from clusters import services as clusters
from clusters.models import Cluster
from core.audit.models import AuditEntry
from core.errors import Problem
from core.operations.models import Operation
from messages import services as store
from messages.types import NewMessage
from registry import gates
from registry.models import Publication, RegistrarHeartbeat, Release
from topics import draining, moving, services, tasks
from topics.models import Draining, Topic

pytestmark = pytest.mark.django_db
TOPIC, GROUP = "/zms/topic/orders", "/zms/consumergroup/bills"


@pytest.fixture
def world():
    """`orders` and `paid` in the store; `bills` reads orders, `letters` paid and then orders."""
    people = make_people()
    application = Application.objects.create(name="order-service", owner=people.alice)
    kafka = {n: clusters.create(actor=people.alice, name=n, kind="kafka", address=f"{n}:9092") for n in ("kafka-a", "kafka-b")}
    orders, paid = (topic(people, application, name) for name in ("orders", "paid"))
    bills = group(people, application, "bills", [("orders", "*")])
    letters = group(people, application, "letters", [("paid", "*"), ("orders", "*")])
    RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")
    made = {"people": people, "application": application, "orders": orders, "paid": paid, "bills": bills, "letters": letters}
    return SimpleNamespace(**made, builtin=Cluster.objects.get(name="builtin"), a=kafka["kafka-a"], b=kafka["kafka-b"])


@pytest.fixture
def api(world):
    return Api(Client(), token_for(world.people.alice))


def move(world, cluster, name="orders"):
    return moving.move(actor=world.people.alice, topic=Topic.objects.get(name=name), cluster=cluster, reason="room", accept_warnings=True)


def drains(path):
    """What a node names, and the clusters that have to stand before it."""
    row = Publication.objects.get(path=path)
    [line] = [line for line in bytes(row.data).decode().splitlines() if line.startswith("mqadmin.drainClusters=")]
    named = line.partition("=")[2]
    assert {f"/zms/cluster/{name}" for name in named.split(",") if name} <= set(row.requires)
    return named


def long_ago():
    """What is drained has been so for an hour."""
    Draining.objects.update(left_at=timezone.now() - timedelta(hours=1))


def test_the_topic_and_all_its_groups_name_what_it_has_left_until_it_comes_back(world):
    before = bytes(Publication.objects.get(path=GROUP).data)
    move(world, world.a)
    assert [drains(path) for path in (TOPIC, GROUP)] == ["builtin"] * 2
    letters = Publication.objects.get(path="/zms/consumergroup/letters")
    assert (letters.generation, drains(letters.path)) == (1, ""), "it is in the store itself"
    move(world, world.a, "paid")
    assert drains(letters.path) == "builtin"
    move(world, world.b)
    assert [drains(path) for path in (TOPIC, GROUP, letters.path)] == ["builtin,kafka-a", "builtin,kafka-a", "builtin"]
    move(world, world.builtin)
    assert [drains(path) for path in (TOPIC, GROUP)] == ["kafka-a,kafka-b"] * 2
    Draining.objects.filter(topic=world.orders).update(until=timezone.now())
    assert tasks.end_draining() == 2
    row = Publication.objects.get(path=GROUP)
    assert bytes(row.data) == before.replace(b"generation=1", b"generation=%d" % row.generation)


def test_a_group_that_comes_later_drains_too(world):
    move(world, world.a)
    group(world.people, world.application, "late", [("orders", "*")])
    assert drains("/zms/consumergroup/late") == "builtin"


def test_documents_say_since_when_and_until_when(world, api):
    move(world, world.a)
    move(world, world.b)
    shown = api("GET", "topics/orders").body["draining"]
    assert [(one["topic"], one["cluster"]) for one in shown] == [("orders", "builtin"), ("orders", "kafka-a")]
    since, until = (datetime.fromisoformat(shown[1][key]) for key in ("since", "until"))
    assert (shown[0]["until"], until - since) == (None, timedelta(days=7))
    assert shown[1]["since"].endswith("Z")
    assert api("GET", "consumer-groups/letters").body["draining"] == shown
    assert [one["draining"] for one in api("GET", "topics?name_contains=paid").body["results"]] == [[]]
    assert [one["name"] for one in api("GET", "topics?draining=kafka-a").body["results"]] == ["orders"]


@pytest.mark.parametrize("what", ["waiting", "delayed", "half", "for one group alone", "nothing of its groups"])
def test_the_store_is_drained_when_nobody_gets_anything_from_it_any_more(world, what):
    orders = world.orders.pk
    if what == "delayed":
        [sent] = store.send(topic_id=orders, messages=[NewMessage(b"x", deliver_at=datetime.now(UTC) + timedelta(hours=1))])
    elif what == "waiting":
        store.send(topic_id=orders, messages=[NewMessage(b"x")])
    elif what == "half":
        store.prepare_half(topic_id=orders, message=NewMessage(b"x"))
    elif what == "for one group alone":  # as a dead letter that was edited
        with connection.cursor() as cursor:
            cursor.execute("SELECT mq_private_topic(%s, %s)", [world.bills.pk, orders])
            private = cursor.fetchone()[0]
        store.send(topic_id=private, messages=[NewMessage(b"x")])
    move(world, world.a)
    move(world, world.a, "paid")
    assert tasks.end_draining() == 0, "what was being sent then may not be stored yet"
    long_ago()
    if what == "nothing of its groups":
        assert tasks.end_draining() == 2
        entry = AuditEntry.objects.filter(action="end draining").latest("pk")
        assert (entry.actor_name, entry.reason, entry.before["draining"]) == ("system", "Nothing of it is left on “builtin”.", "builtin")
        assert Release.objects.of(TOPIC)[0].author_name == "system"
        return
    assert tasks.end_draining() == 1, "paid has nothing there"
    assert (drains(TOPIC), drains("/zms/consumergroup/letters")) == ("builtin", "builtin")
    with connection.cursor() as cursor:
        if what == "waiting":
            cursor.execute("SELECT mq_unsubscribe(group_id, topic_id) FROM mq_cursor WHERE topic_id = %s", [orders])
        elif what == "for one group alone":
            cursor.execute("SELECT mq_unsubscribe(%s, %s)", [world.bills.pk, private])
        elif what == "delayed":
            cursor.execute("DELETE FROM mq_delayed WHERE id = %s", [sent.id])
        else:
            cursor.execute("UPDATE mq_half SET state = 'R' WHERE topic_id = %s", [orders])
    assert tasks.end_draining() == 1
    assert (drains(TOPIC), drains(GROUP), drains("/zms/consumergroup/letters")) == ("", "", "")


def test_elsewhere_it_ends_after_as_long_as_brokers_keep_messages(world, settings):
    settings.DRAIN_DAYS = 0.5
    move(world, world.a)
    move(world, world.b)
    row = Draining.objects.get(cluster=world.a)
    assert row.until - row.left_at == timedelta(hours=12)
    Draining.objects.filter(pk=row.pk).update(until=timezone.now())
    assert tasks.end_draining() == 1
    assert (drains(TOPIC), drains(GROUP)) == ("builtin", "builtin")
    settings.DRAIN_DAYS = 0
    move(world, world.a)
    assert Draining.objects.get(cluster=world.b).until is None


def test_a_person_ends_it_with_a_reason_and_that_is_in_the_audit(world, api):
    move(world, world.a)
    move(world, world.b)
    url, body = "topics/orders/drained-clusters", {"cluster": "kafka-a", "reason": "looked with kcat"}
    assert api("POST", url, {"cluster": "kafka-a", "reason": " "}).status_code == 400
    assert api("POST", url, {**body, "cluster": "kafka-b"}).body["code"] == "not_draining"
    rehearsed = api("POST", f"{url}?dry_run=true", body)
    assert [change["action"] for change in rehearsed.body["changes"]] == ["end draining"]
    assert drains(GROUP) == "builtin,kafka-a"
    done = api("POST", url, body)
    assert (done.status_code, [one["cluster"] for one in done.body["draining"]]) == (200, ["builtin"])
    assert (drains(TOPIC), drains(GROUP)) == ("builtin", "builtin")
    entry = AuditEntry.objects.get(action="end draining")
    assert (entry.name, entry.actor_name, entry.reason) == ("orders", "alice", "looked with kcat")
    assert api("POST", url, body).body["code"] == "not_draining"
    reader = Api(Client(), token_for(world.people.reader))
    assert reader("POST", url, {**body, "cluster": "builtin"}).status_code == 403


def test_a_cluster_that_is_drained_is_not_deleted_and_topics_and_groups_are_named(world, api):
    move(world, world.a)
    move(world, world.b)
    refused = api("DELETE", "clusters/kafka-a", **{"If-Match": "*"})
    assert (refused.status_code, refused.body["code"]) == (409, "still_drained")
    assert (refused.body["topics"], refused.body["groups"]) == (["orders"], ["bills", "letters"])
    draining.end(actor=world.people.alice, topic=world.orders, cluster=world.a, reason="empty")
    assert api("DELETE", "clusters/kafka-a", **{"If-Match": "*"}).status_code == 204


def test_when_its_address_changes_those_who_drain_it_are_set_again(world):
    move(world, world.a)
    move(world, world.b)
    before = {path: Publication.objects.get(path=path).generation for path in (TOPIC, GROUP)}
    clusters.change(actor=world.people.alice, cluster=world.a, address="elsewhere:9092", description="")
    assert {path: Publication.objects.get(path=path).generation for path in before} == {p: n + 1 for p, n in before.items()}


def test_what_gated_producers_leave_behind_is_drained_when_the_gate_is_abandoned(world):
    alice = world.people.alice
    gate = gates.gate(actor=alice, path=TOPIC, cluster="kafka-b", ips=["10.0.0.1"], reason="try it")
    assert (drains(TOPIC), drains(GROUP)) == ("", "")
    gates.abandon(actor=alice, gate=gate, reason="no")
    assert (drains(TOPIC), drains(GROUP), drains("/zms/consumergroup/letters")) == ("kafka-b", "kafka-b", "kafka-b")
    gates.close(actor=alice, gate=gate, reason="all are back")
    gate = gates.gate(actor=alice, path=TOPIC, cluster="kafka-b", ips=["10.0.0.1"], reason="try again")
    gates.promote(actor=alice, gate=gate, reason="good", accept_warnings=True)
    assert (drains(TOPIC), drains(GROUP)) == ("builtin", "builtin")


def test_nothing_is_drained_of_a_retired_topic(world):
    lone = topic(world.people, world.application, "lone")
    move(world, world.a, "lone")
    services.retire(actor=world.people.alice, topic=Topic.objects.get(pk=lone.pk), reason="not needed")
    assert not Draining.objects.exists()


def many(world, count):
    names = [f"t{i:03}" for i in range(count)]
    for name in names:
        topic(world.people, world.application, name, cluster=world.a)
        group(world.people, world.application, f"g{name}", [(name, "*")])
    topics = list(Topic.objects.filter(name__in=names).select_related("cluster").order_by("name"))
    moving.move_many(actor=world.people.alice, topics=topics, cluster=world.b, reason="lost")


def test_of_many_it_ends_with_as_many_statements_as_of_few(world):
    many(world, 12)
    over = list(Draining.objects.order_by("pk").values_list("pk", flat=True))

    def statements(count):
        with CaptureQueriesContext(connection) as seen, transaction.atomic():
            Draining.objects.filter(pk__in=over[:count]).update(until=timezone.now())
            assert tasks.end_draining() == count
            transaction.set_rollback(True)
        return len(seen)

    assert statements(2) == statements(12)


def test_of_all_topics_that_have_left_a_cluster_it_is_ended_at_once(world, api):
    many(world, 3)
    body = {"action": "end-draining", "select": {"draining": "kafka-a"}, "values": {"cluster": "kafka-a", "reason": "it is gone for good"}}
    answer = api("POST", "bulk/topics", body)
    assert answer.status_code in {200, 202}, answer.body
    if Operation.objects.exists():
        run(Operation.objects.get())
    assert not Draining.objects.exists()
    assert drains("/zms/consumergroup/gt001") == ""


def test_it_is_refused_for_topics_that_have_not_left_it(world):
    with pytest.raises(Problem) as refused:
        draining.end(actor=world.people.alice, topic=world.orders, cluster=world.a, reason="empty")
    assert refused.value.code == "not_draining"


def test_the_pages_show_what_is_drained_since_when_and_how_much_is_known_to_be_left(world, client):
    store.send(topic_id=world.orders.pk, messages=[NewMessage(b"x")] * 3)
    move(world, world.a)
    move(world, world.b)
    client.force_login(world.people.reader)

    def shown(name, *args):
        return client.get(reverse(f"admin:{name}", args=args)).content.decode()

    page = shown("topics_detail", "orders")
    assert "waiting 3, in hand 0" in page
    assert "mqadmin does not ask this broker" in page
    assert page.count("You do not have the permission for this.") >= 2  # the buttons of both
    assert "every group is done there" in shown("consumers_detail", "letters")
    cluster = shown("clusters_detail", "kafka-a")
    assert "?draining=kafka-a" in cluster
    assert "Being drained" not in shown("topics_detail", "paid")
    listed = client.get(reverse("admin:topics_list"), {"draining": "kafka-a"})
    assert [row.name for row in listed.context["rows"]] == ["orders"]


def test_on_its_page_a_person_ends_the_draining_of_one_cluster(world, client):
    move(world, world.a)
    client.force_login(world.people.alice)
    address = reverse("admin:topics_end_draining", args=["orders"])
    page = client.get(f"{address}?cluster=builtin").content.decode()
    assert '<option value="builtin" selected>' in page
    assert "kafka-b" not in page.partition("<form")[2]
    version = Topic.objects.get(name="orders").version
    refused = client.post(address, {"cluster": "kafka-b", "reason": "r", "version": version})
    assert (refused.status_code, drains(GROUP)) == (200, "builtin")
    done = client.post(address, {"cluster": "builtin", "reason": "nothing of worth", "version": version})
    assert (done.status_code, drains(GROUP)) == (302, "")
    client.force_login(world.people.reader)
    assert client.get(address).status_code == 403
