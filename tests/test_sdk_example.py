"""The example program as a process: Postgres → registrar → ZooKeeper → SDK → registrar → Postgres, each in its own process."""

from datetime import timedelta

from django.db import transaction
from django.utils import timezone
from registry_world import committed, put_cluster, put_group, put_topic, wait_for, why, world  # noqa: F401

from registry import services
from registry.models import Instance


def put_shadow(enable, until=None):
    return services.publish_json(
        path="/zpt/order-service/stress-1/order_bill_group",
        document={
            "enable": enable,
            "task": "stress-1",
            "group": "order_bill_group",
            "topic": "order_topic",
            "leaseUntil": until and until.isoformat(timespec="milliseconds"),
        },
        requires=["/zms/consumergroup/order_bill_group"],
        change=why(),
    )


def test_it_prints_each_change_as_it_comes_and_is_seen_online(world):  # noqa: F811
    world.registrar()
    program = world.example("--app", "order-service", "--topic", "order_topic", "--group", "order_bill_group")
    with transaction.atomic():
        put_cluster("builtin", "", "builtin")
        put_topic("order_topic", "builtin")
    assert program.expect("topic") == "topic order_topic: cluster builtin, generation 1"
    put_group("order_bill_group", "builtin")
    program.expect("group order_bill_group: cluster builtin, orders [created || paid], generation 1")
    put_group("order_bill_group", "builtin", suspend=True)
    assert program.expect("group") == "group order_bill_group: suspended"
    put_group("order_bill_group", "builtin")
    assert program.expect("group") == "group order_bill_group: resumed"

    put_shadow("1", timezone.now() + timedelta(hours=1))
    assert program.expect("shadow") == "shadow stress-1/order_bill_group: started"
    wait_for(lambda: Instance.objects.online().filter(role="shadow", app="order-service", applied_generation=1).exists())
    put_shadow("0")
    assert program.expect("shadow") == "shadow stress-1/order_bill_group: stopped"
    wait_for(lambda: not Instance.objects.online().filter(role="shadow").exists())

    with transaction.atomic():
        put_cluster("kafka-b", "10.0.0.7:9092")
        put_topic("order_topic", "kafka-b")
    assert program.expect("topic") == "topic order_topic: rebuilt for cluster kafka-b (10.0.0.7:9092), generation 2"
    with transaction.atomic():
        put_cluster("kafka-b", "10.0.0.8:9092")
        services.republish(paths=["/zms/topic/order_topic"], change=why())
    assert program.expect("topic") == "topic order_topic: rebuilt for cluster kafka-b (10.0.0.8:9092), generation 3"

    instance = wait_for(lambda: Instance.objects.online().filter(path="/zms/topic/order_topic", applied_generation=3).first())
    assert (instance.app, instance.pid, instance.cluster, instance.plain) == ("order-service", program.process.pid, "kafka-b", False)
    assert program.end() == 0
    wait_for(lambda: not Instance.objects.online().exists(), what="it to be offline")
    assert not [line for line in program.seen if "Traceback" in line]


def test_killed_it_goes_offline_within_the_session_timeout(world):  # noqa: F811
    world.registrar()
    program = world.example("--app", "order-service", "--topic", "orders", session_timeout=2)
    put_cluster()
    put_topic()
    wait_for(lambda: Instance.objects.online().exists())
    program.process.kill()
    wait_for(lambda: not Instance.objects.online().exists(), 6, "the dead instance to be offline")
