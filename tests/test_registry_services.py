"""What rooms say to the registry, in their own transaction; no ZooKeeper takes part."""

import pytest
from django.db import transaction
from registry_world import put_cluster, put_group, put_topic, why

from core.errors import Problem
from registry import services
from registry.models import Publication, RegistrarHeartbeat

pytestmark = pytest.mark.django_db


def test_a_topic_is_rendered_byte_for_byte():
    assert bytes(put_topic().data) == (
        b"clusterName=kafka-a\ntype=topic\ngatedIps=\ngatedCluster=\nstatisticsLogger=disk\nmqadmin.generation=1\nmqadmin.drainClusters=\n"
    )


def test_a_cluster_and_a_group_are_rendered_byte_for_byte():
    assert bytes(put_cluster(address="h1:9092,h2:9092").data) == (
        b"bootAddr=h1\\:9092,h2\\:9092\nbrokerType=kafka\nserverIps=\nmqadmin.generation=1\n"
    )
    assert bytes(put_group().data) == (
        b"clusterName=kafka-a\ntype=consumergroup\nbindingTopic=orders\nbroadcast=false\nconsumeFrom=earliest\nsuspend=false\n"
        b"gatedIps=\ngatedCluster=\nstatisticsLogger=disk\nmqadmin.generation=1\nmqadmin.drainClusters=\n"
        b'mqadmin.subscriptions={"orders"\\:"created || paid"}\nmqadmin.maxAttempts=16\n'
    )


def test_unchanged_content_makes_no_new_generation():
    assert [put_topic().generation, put_topic().generation, put_topic(cluster="b").generation] == [1, 1, 2]


def test_json_carries_the_generation_and_plain_unicode():
    row = services.publish_json(path="/zpt/app/task/group", document={"enable": "1", "task": "压测"}, change=why())
    assert bytes(row.data) == '{"enable":"1","task":"压测","generation":1}'.encode()
    assert services.publish_json(path="/zpt/app/task/group", document={"enable": "0", "task": "压测"}, change=why()).generation == 2


@pytest.mark.parametrize("value", ["null", None, 7])
def test_it_refuses_the_word_null_and_what_is_no_text(value):
    with pytest.raises(Problem, match="bootAddr") as refused:
        services.publish_properties(path="/zms/cluster/x", zms={"bootAddr": value}, own={}, change=why())
    assert refused.value.code == "invalid_value"
    assert not Publication.objects.filter(path="/zms/cluster/x").exists()


def test_it_refuses_half_a_surrogate_pair():
    with pytest.raises(Problem) as refused:
        services.publish_properties(path="/zms/cluster/x", zms={"bootAddr": "\ud83d"}, own={}, change=why())
    assert refused.value.code == "invalid_value"


def test_it_refuses_a_node_over_512_kilobytes_before_it_is_stored():
    before = put_cluster(name="big")
    with pytest.raises(Problem) as refused, transaction.atomic():
        put_cluster(name="big", address="a" * 512 * 1024)
    assert (refused.value.code, refused.value.status) == ("node_too_large", 422)
    assert bytes(Publication.objects.get(path="/zms/cluster/big").data) == bytes(before.data)


@pytest.mark.parametrize(
    "path", ["", "zms/topic/x", "/zms", "/zms//x", "/zms/topic/..", "/zms/./x", "/zms/topic/a\nb", "/zookeeper/config"]
)
def test_it_refuses_what_is_no_path(path):
    with pytest.raises(Problem) as refused:
        services.publish_json(path=path, document={}, change=why())
    assert refused.value.code == "invalid_path"


def test_republishing_gives_the_same_content_a_new_generation():
    put_topic("a")
    put_topic("b")
    gone = put_topic("c")
    services.retract(path=gone.path, change=why())
    assert services.republish(paths=["/zms/topic/a", "/zms/topic/b", gone.path, "/zms/topic/unknown"], change=why()) == 2
    assert bytes(services.publication_for("/zms/topic/b").data).endswith(b"disk\nmqadmin.generation=2\nmqadmin.drainClusters=\n")


def test_a_path_published_again_after_retiring_goes_on_counting():
    row = put_topic()
    assert (row.generation, services.retract(path=row.path, change=why()).generation) == (1, 2)
    assert services.retract(path=row.path, change=why()).generation == 2
    again = put_topic()
    assert (again.generation, again.deleted) == (3, False)
    assert b"mqadmin.generation=3\n" in bytes(again.data)


def test_retracting_what_was_never_published_is_no_error():
    assert services.retract(path="/zms/topic/none", change=why()) is None


def test_foreign_keys_come_after_ours_and_never_replace_them():
    row = put_cluster()
    Publication.objects.filter(pk=row.pk).update(foreign_keys=[["team", "blue=1"], ["bootAddr", "evil"]])
    assert bytes(put_cluster(address="new:1").data) == (
        b"bootAddr=new\\:1\nbrokerType=kafka\nserverIps=\nmqadmin.generation=2\nteam=blue\\=1\n"
    )


def test_what_a_publication_waits_for_is_named():
    topic = put_topic()
    assert services.blockers(topic) == ["/zms/cluster/kafka-a"]
    cluster = put_cluster()
    Publication.objects.filter(pk=cluster.pk).update(published_generation=1)
    assert services.blockers(topic) == []
    assert services.blockers(services.retract(path=cluster.path, change=why())) == [topic.path]


def test_instances_are_known_only_with_a_live_watch():
    assert not services.instances_known()
    beat = RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="comparing")
    assert not services.instances_known()
    RegistrarHeartbeat.objects.filter(pk=beat.pk).update(watch="live")
    assert services.instances_known()
