"""The full check and the rebuild as operations, the export: on a real ZooKeeper, with the store as the broker."""

import io
import json

import pytest
from conftest import Api, token_for
from console_world import group, make_people, topic
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from kazoo.client import KazooClient
from registry_world import wait_for

from accounts.models import Application
from core.errors import Problem
from core.operations import driving
from core.operations.models import OPEN, Operation
from mqadmin_sdk.zk import Client as OurClient
from registry import checks, rebuilding
from registry.models import Drift, DriftPolicy, Publication, RegistrarHeartbeat, TreeCheck
from registry.observing import Observer
from registry.publishing import Publisher
from registry.tasks import start_check

pytestmark = pytest.mark.django_db(transaction=True)


class Deployment:
    """Rooms with rows, a tree, and a registrar's two halves that are driven by hand."""

    def __init__(self, hosts):
        self.people = make_people()
        application = Application.objects.create(name="order-service", owner=self.people.alice)
        self.order = topic(self.people, application, "order_topic")
        self.bill = group(self.people, application, "bill_group", [("order_topic", "created || paid")])
        with connection.cursor() as cursor:  # the store keeps what other tests left in it
            cursor.execute("UPDATE mq_group SET retired = true WHERE group_id <> %s", [self.bill.pk])
        self.ours = OurClient(hosts, timeout=10)
        self.ours.start(timeout=15)
        self.raw = KazooClient(hosts=hosts)
        self.raw.start(timeout=15)
        for root in ("/zms/cluster", "/zms/topic", "/zms/consumergroup", "/zpt", "/zpt-instances"):
            self.raw.ensure_path(root)
        self.publisher, self.observer = Publisher(self.ours, name="here"), Observer(self.ours, name="here")
        self.observer.start()
        wait_for(lambda: self.observer.step(0.05) or self.observer.state == "live")
        self.publisher.publish_due()
        self.beat()

    def beat(self):
        RegistrarHeartbeat.objects.all().delete()
        RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")

    def drive(self, operation, *, publishing=True):
        """Let worker and registrar work until it has ended."""

        def step():
            self.beat()
            driving.take_on(operation.pk)
            self.observer.step(0.02)
            if publishing:
                self.publisher.publish_due()
            return Operation.objects.exclude(state__in=OPEN).filter(pk=operation.pk).first()

        return wait_for(step, what="the end of the operation")

    def close(self):
        for client in (self.ours, self.raw):
            client.stop()
            client.close()


@pytest.fixture
def deployment(zk_chroot):
    made = Deployment(zk_chroot)
    yield made
    made.close()


def differences(operation):
    return {item.key: item.code for item in operation.items.filter(state="failed")}


def test_a_deployment_in_which_all_agree_has_no_difference(deployment):
    operation = deployment.drive(checks.start(actor=deployment.people.alice))
    assert (operation.state, differences(operation)) == ("succeeded", {})
    assert operation.done == 4 + Publication.objects.count() + 1
    assert sum(TreeCheck.objects.values_list("nodes", flat=True)) == Publication.objects.count()


def test_each_kind_of_difference_is_told_with_what_to_do_and_none_is_repaired(deployment):
    DriftPolicy.objects.update(policy="alert")
    raw = deployment.raw
    raw.set("/zms/topic/order_topic", b"clusterName=evil\n")
    raw.delete("/zms/cluster/builtin")
    raw.create("/zms/consumergroup/theirs", b"x")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE mq_group SET max_attempts = 99 WHERE group_id = %s", [deployment.bill.pk])
        cursor.execute("INSERT INTO mq_group (group_id, max_attempts, backoff_ms) VALUES (987654, 1, '{1}')")
    operation = deployment.drive(checks.start(actor=deployment.people.alice, reason="drill"))
    assert operation.state == "partial"
    assert differences(operation) == {
        "/zms/topic/order_topic": "node_changed",
        "/zms/cluster/builtin": "node_missing",
        "consumer-groups": "unknown_nodes",
        "/zms/consumergroup/bill_group": "broker_differs",
        "built-in store": "broker_strays",
    }
    told = dict(operation.items.filter(state="failed").values_list("key", "detail"))
    assert "Decide on it under “Drift”." in told["/zms/topic/order_topic"]
    assert "/zms/consumergroup/theirs" in told["consumer-groups"]
    assert "attempts: 99, wanted" in told["/zms/consumergroup/bill_group"]
    assert "987654" in told["built-in store"]
    assert raw.get("/zms/topic/order_topic")[0] == b"clusterName=evil\n"
    assert raw.exists("/zms/cluster/builtin") is None


def test_a_change_on_its_way_is_no_drift(deployment):
    deployment.publisher = None
    Publication.objects.filter(path="/zms/topic/order_topic").update(
        generation=2, data=bytes(Publication.objects.get(path="/zms/topic/order_topic").data).replace(b"generation=1", b"generation=2")
    )
    operation = deployment.drive(checks.start(actor=deployment.people.alice), publishing=False)
    assert differences(operation) == {"/zms/topic/order_topic": "node_pending"}


def test_without_a_registrar_the_check_waits_and_says_so_and_a_second_one_is_refused(deployment):
    operation = checks.start(actor=deployment.people.alice)
    RegistrarHeartbeat.objects.all().delete()
    wait_for(lambda: driving.take_on(operation.pk) or Operation.objects.get(pk=operation.pk).error, what="the reason")
    assert "No registrar is connected" in Operation.objects.get(pk=operation.pk).error
    with pytest.raises(Problem) as refused:
        checks.start(actor=deployment.people.alice)
    assert refused.value.code == "check_running"
    start_check()  # by the clock: the running one is enough
    assert Operation.objects.filter(kind=checks.KIND).count() == 1
    assert deployment.drive(operation).state == "succeeded"


def test_over_rest_each_of_them_is_an_operation_or_a_file(deployment):
    api = Api(Client(), token_for(deployment.people.alice))
    answer = api("POST", "zookeeper/check", {})
    assert (answer.status_code, answer.body["kind"]) == (202, "registry.check")
    assert api("POST", "zookeeper/rebuild", {}).status_code == 400
    answer = api("POST", "zookeeper/rebuild", {"reason": "wiped"})
    assert (answer.status_code, answer.body["kind"]) == (202, "registry.rebuild")
    nobody = Api(Client(), token_for(deployment.people.nobody))
    assert [nobody("POST", f"zookeeper/{verb}", {"reason": "x"}).status_code for verb in ("check", "rebuild")] == [403, 403]
    assert nobody("GET", "zookeeper/export").status_code == 403


def test_a_rebuild_writes_what_is_missing_also_where_a_person_was_to_decide(deployment):
    DriftPolicy.objects.update(policy="alert")
    raw = deployment.raw
    for path in ("/zms/consumergroup/bill_group", "/zms/topic/order_topic", "/zms/cluster/builtin"):
        raw.delete(path)
    deployment.observer.compare_all()
    deployment.observer.step(0.0)
    deployment.publisher.publish_due()
    assert Publication.objects.held().count() > 0
    operation = deployment.drive(rebuilding.start(actor=deployment.people.alice, reason="wiped"))
    assert operation.state == "succeeded"
    for row in Publication.objects.live():
        assert raw.get(row.path)[0] == bytes(row.data)
        assert row.state == "published"
    assert raw.get("/zms/cluster/builtin")[1].czxid < raw.get("/zms/topic/order_topic")[1].czxid
    assert not Drift.objects.unsettled().exists()


def test_a_rebuild_does_not_write_over_an_edit_that_waits_and_names_it(deployment):
    DriftPolicy.objects.update(policy="alert")
    deployment.raw.set("/zms/topic/order_topic", b"clusterName=evil\n")
    operation = deployment.drive(rebuilding.start(actor=deployment.people.alice, reason="wiped"))
    assert differences(operation) == {"/zms/topic/order_topic": "drift_waits"}
    assert deployment.raw.get("/zms/topic/order_topic")[0] == b"clusterName=evil\n"


def test_the_command_follows_a_rebuild_to_its_end(deployment, monkeypatch):
    deployment.raw.delete("/zms/consumergroup/bill_group")
    take_on = driving.take_on

    def with_a_registrar(pk):
        deployment.beat()
        deployment.observer.step(0.0)
        deployment.publisher.publish_due()
        return take_on(pk)

    monkeypatch.setattr(driving, "take_on", with_a_registrar)
    out = io.StringIO()
    call_command("rebuild_tree", reason="wiped", stdout=out)
    assert "Everything stands." in out.getvalue()
    assert deployment.raw.exists("/zms/consumergroup/bill_group")
    DriftPolicy.objects.update(policy="alert")
    deployment.raw.set("/zms/topic/order_topic", b"clusterName=evil\n")
    with pytest.raises(CommandError):
        call_command("rebuild_tree", reason="again", stdout=io.StringIO(), stderr=io.StringIO())


def test_the_export_has_each_node_that_should_stand_byte_for_byte(deployment, tmp_path):
    file = tmp_path / "tree.jsonl"
    call_command("export_tree", output=file, stderr=io.StringIO())
    nodes = [json.loads(line) for line in file.read_text().splitlines()]
    assert {node["path"]: node["data"].encode() for node in nodes} == {row.path: bytes(row.data) for row in Publication.objects.live()}
    assert all(node["generation"] == 1 for node in nodes)
    api = Api(Client(), token_for(deployment.people.alice))
    served = b"".join(api("GET", "zookeeper/export").streaming_content).decode()
    assert served == file.read_text()
