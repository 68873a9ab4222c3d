"""What the console's tests show: topics and groups in every state, made through the services."""

from datetime import timedelta
from types import SimpleNamespace

from django.utils import timezone

from accounts.models import Application, User
from clusters import services as clusters
from clusters.models import Cluster
from consumers import services as consumers
from consumers import shadow as shadows
from registry.discovery_models import Registration, Service, WorkerId
from registry.models import Drift, Gate, Instance, Publication, RegistrarHeartbeat
from topics import services as topics
from topics.models import Draining

PASSWORD = "correct horse battery"


def make_people():
    """Two administrators, and one who may only look."""
    from django.contrib.auth.models import Permission

    alice = User.objects.create_superuser("alice", password=PASSWORD)
    bob = User.objects.create_superuser("bob", password=PASSWORD)
    reader = User.objects.create_user("reader", password=PASSWORD, is_staff=True)
    reader.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    nobody = User.objects.create_user("nobody", password=PASSWORD, is_staff=True)
    return SimpleNamespace(alice=alice, bob=bob, reader=reader, nobody=nobody)


def topic(people, application, name, *, state="active", cluster=None):
    made = topics.apply(
        actor=people.alice, name=name, application=application, owner=people.alice, expected_rate=100, message_bytes=1200, partitions=4,
        ordered=False, reason="orders",
    )  # fmt: skip
    if state in {"active", "retired"}:
        topics.approve(actor=people.bob, topic=made, cluster=cluster or Cluster.objects.get(name="builtin"))
    if state == "rejected":
        topics.reject(actor=people.bob, topic=made, reason="use another topic")
    if state == "retired":
        RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")
        topics.retire(actor=people.bob, topic=made, reason="no longer sent")
        RegistrarHeartbeat.objects.all().delete()
    return made


def group(people, application, name, subscriptions, *, state="active"):
    made = consumers.apply(
        actor=people.alice, name=name, application=application, owner=people.bob, consume_from="earliest", max_attempts=5, backoff_ms=1000,
        backoff_max_ms=60_000, subscriptions=subscriptions, reason="bills",
    )  # fmt: skip
    if state in {"active", "suspended"}:
        consumers.approve(actor=people.bob, group=made)
    if state == "rejected":
        consumers.reject(actor=people.bob, group=made, reason="there is one already")
    if state == "suspended":
        consumers.suspend(actor=people.alice, group=made, reason="billing is down")
    return made


def instance(thing, *, number=1, **changes):
    values = {
        "path": thing.zookeeper_path, "node": f"n{number}", "znode": f"{thing.zookeeper_path}/n{number}", "ip": f"10.0.0.{number}",
        "role": "consumer", "sdk": "python 1.0", "app": "order-service", "pid": number, "applied_generation": 1,
        "czxid": number, "mzxid": number,
    }  # fmt: skip
    return Instance.objects.create(**{**values, **changes})


def registered(name, *, app, layout="dubbo", number=1, **changes):
    """A service, application or job of a registry with one who is registered and one who left, and a worker id of the application."""
    root = {"dubbo": "/dubbo", "messages": "/paascloud/registry", "jobs": "/jobs"}[layout]
    kind = {"dubbo": "provider", "messages": "host", "jobs": "instance"}[layout]
    values = {"path": f"{root}/{name}", "root": root, "layout": layout, "name": name, "providers": 1, "online": True}
    service = Service.objects.create(**{**values, **changes})
    rows = []
    for number_of, (host, online, departure) in enumerate([("10.0.0.1:20880", True, ""), ("10.0.0.2:20880", False, "lost")]):
        znode = f"{service.path}/{host}"
        values = {"kind": kind, "key": znode, "znode": znode, "name": f"dubbo://{host}/{name}", "app": app, "address": host}
        values |= {"session": "abc", "polite": True, "czxid": number_of, "mzxid": number_of, "online": online, "departure": departure}
        rows.append(Registration.objects.create(service=service, offline_at=None if online else timezone.now(), **values))
    service.events.create(kind="registered", member=kind, app=app, name="10.0.0.1:20880")
    worker = WorkerId.objects.create(znode=f"/paascloud/registry/id/{app}/{number}", app=app, host=f"10.0.0.{number}", number=number)
    return service, rows[0], worker


def make_world():
    """A bit of everything."""
    people = make_people()
    application = Application.objects.create(name="order-service", owner=people.alice)
    kafka = clusters.create(actor=people.alice, name="kfk-a", kind="kafka", address="10.0.0.1:9092", description="orders")
    order = topic(people, application, "order_topic")
    paid = topic(people, application, "paid%topic", cluster=kafka)
    topic(people, application, "pending_topic", state="pending")
    topic(people, application, "rejected_topic", state="rejected")
    topic(people, application, "retired_topic", state="retired")
    bill = group(people, application, "bill_group", [("order_topic", "created || paid"), ("paid%topic", "*")])
    group(people, application, "pending_group", [("order_topic", "*")], state="pending")
    group(people, application, "rejected_group", [("order_topic", "*")], state="rejected")
    group(people, application, "suspended_group", [("order_topic", "*")], state="suspended")
    shadow = shadows.create(actor=people.alice, application=application, task="stress", group=bill, topic=order)
    shadows.start(actor=people.alice, shadow=shadow, minutes=30, reason="rehearsal")
    now = timezone.now()
    Draining.objects.create(topic=order, cluster=kafka, left_at=now, until=now + timedelta(days=7))
    Publication.objects.filter(path=order.zookeeper_path).update(published_generation=1)
    Publication.objects.filter(path=paid.zookeeper_path).update(last_error="connection lost", attempts=3)
    Drift.objects.create(
        path=order.zookeeper_path, edit="changed", incident="1", data=b"clusterName=theirs\n", size=19, wanted=b"clusterName=builtin\n",
        wanted_generation=1, outcome="waiting",
    )  # fmt: skip
    Drift.objects.create(path="/zms/topic/theirs", edit="unknown", incident="2", data=b"\x00", size=1, session="abc", outcome="left")
    Gate.objects.create(
        publication=Publication.objects.get(path="/zms/consumergroup/suspended_group"), cluster="kfk-a", main_cluster="builtin",
        ips=["10.0.0.9"], opened_by="alice", reason="a try",
    )  # fmt: skip
    registered("com.shop.Stock", app="order-service")
    registered("order-service", app="order-service", layout="messages", number=2, role="producer", details={"group": "PID", "servers": ""})
    shards = [{"item": "0", "state": "running", "instance": "a", "running": "a", "failover": ""}]
    registered("nightly", app="", layout="jobs", number=3, leader="a", leader_token=7, details={"config": "{}", "shards": shards})
    instance(order)
    instance(order, number=2, applied_generation=0)
    instance(order, number=3, plain=True, applied_generation=None, app="", sdk="")
    instance(bill, number=4, online=False)
    return SimpleNamespace(people=people, application=application, order=order, paid=paid, bill=bill, shadow=shadow, kafka=kafka)
