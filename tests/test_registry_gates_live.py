"""A gate from its opening to its proven end, with a real ZooKeeper, a registrar and programs on our SDK: one of them is in zone a."""

import pytest
from registry_world import committed, published, put_cluster, wait_for, why, world  # noqa: F401

from mqadmin_sdk import Client
from registry import gates, services
from registry.models import Gate, Instance, Publication


class Topic:
    """As the room above would, without its rows: the topic is on kafka-a."""

    permission = "topics.move_topic"

    def main(self, actor, path):
        return gates.Place("kafka-a", "kafka")

    def place(self, name):
        return gates.Place(name, "kafka")

    def places(self):
        return []

    def publish(self, path, change):
        gated, labels, further = gates.keys(path)
        services.publish_properties(
            path=path,
            zms={"clusterName": "kafka-a", "type": "topic", **gated, "statisticsLogger": "disk"},
            own={"mqadmin.drainClusters": "", **labels},
            requires=["/zms/cluster/kafka-a", *further],
            change=change,
        )

    def abandoned(self, path, cluster, change):
        self.publish(path, change)


class Somebody:
    """An administrator who is in no table: what is committed here is only the room's."""

    pk = None

    def has_perm(self, _permission):
        return True

    def get_username(self):
        return "alice"


@pytest.fixture
def sdk(world, monkeypatch):  # noqa: F811
    monkeypatch.setitem(gates.rooms, "/zms/topic", Topic())
    monkeypatch.setattr(gates, "record", lambda **_entry: None)
    clients = []

    def start(**options):
        client = Client(zookeeper=world.hosts, app=options.pop("app"), session_timeout=4, **options)
        clients.append(client)
        states = []
        client.watch_topic("orders", states.append)
        return states

    yield start
    for client in clients:
        client.close()


def test_the_labelled_instance_goes_and_comes_back_and_that_is_proven(world, sdk):  # noqa: F811
    put_cluster()
    put_cluster(name="kafka-b", address="10.0.0.2:9092")
    topic = "/zms/topic/orders"
    Topic().publish(topic, why())
    world.registrar()
    published(topic)
    zoned, other = sdk(app="shop", labels={"zone": "a", "rack": "2"}), sdk(app="till")

    def on():
        return {row.app: (row.cluster, row.labels) for row in Instance.objects.online().at([topic]) if row.cluster}

    wait_for(lambda: on() == {"shop": ("kafka-a", {"zone": "a", "rack": "2"}), "till": ("kafka-a", None)}, what="both on the main cluster")
    gate = gates.gate(actor=Somebody(), path=topic, cluster="kafka-b", labels={"zone": "a"}, reason="try it")
    wait_for(lambda: [(m.instance.app, m.status) for m in gates.members(gate)] == [("shop", "gated")], what="the shop on kafka-b")
    wait_for(lambda: Instance.objects.get(app="till").applied_generation == gate.generation, what="the till's report")
    assert {name: cluster for name, (cluster, _labels) in on().items()} == {"shop": "kafka-b", "till": "kafka-a"}
    assert (zoned[-1].gated, zoned[-1].cluster.boot_addr, other[-1].gated) == (True, "10.0.0.2:9092", False)

    raw = world.raw()
    plain = f"{topic}/10.9.9.9||DEFAULT_PRODUCER||zms||0"
    raw.create(plain, b"", ephemeral=True)
    Gate.objects.update(ips=["10.9.9.9"])  # it is gated by its address, as well
    wait_for(lambda: Instance.objects.online().filter(plain=True).exists(), what="the plain client")
    gate = gates.abandon(actor=Somebody(), gate=Gate.objects.get(), reason="no")
    wait_for(lambda: {m.instance.app: m.status for m in gates.members(gate)} == {"": "unknown", "shop": "back"}, what="the shop back")
    assert b"gatedLabels" not in bytes(Publication.objects.get(path=topic).data)
    assert (gates.prove(), Gate.objects.get().state) == (0, "abandoning"), "of the plain client nobody knows"
    raw.delete(plain)
    wait_for(gates.prove, what="the proof")
    assert Gate.objects.get().state == "abandoned"
    assert zoned[-1].cluster.name == "kafka-a"
