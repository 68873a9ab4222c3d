"""What mqadmin publishes, as Java reads it: `java.util.Properties`, ZooKeeper's Java client, and a client that behaves like ZMS."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from java_reader import from_hex, to_hex
from registry_world import committed, published, put_cluster, put_group, put_topic, wait_for, why, world  # noqa: F401

from mqadmin_sdk.zk import properties
from registry import services
from registry.models import Instance, Publication

NASTY = " \t\f\r\n\\:=#!é€😀\u0000\u007f\u0080\u00ff\u0100\u0085\u2028\ufeff\uffff"
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]) | st.sampled_from(NASTY), max_size=30)
KEYS = TEXT.filter(bool)
#: What is dense in everything that the format gives a meaning.
SYNTAX = st.lists(
    st.sampled_from(
        [b"\\", b"\\\\", b"\n", b"\r", b"\r\n", b"=", b":", b" ", b"\t", b"\f", b"#", b"!", b"a", b"k", b"\\u00e9", b"\\u", b"\\uD83D",
         b"\\uDE00", b"\\u12", b"\\uuuu", b"\\n", b"\xe9", b"\x00", b"\xff"]
    ),
    max_size=24,
).map(b"".join)  # fmt: skip
DOCUMENTED = Path(__file__).resolve().parent.parent / "docs" / "znodes.md"


# --- properties ---------------------------------------------------------------------------------------------------------------


@given(pairs=st.lists(st.tuples(KEYS, TEXT), max_size=8, unique_by=lambda pair: pair[0]))
@example(pairs=[("gatedIps", ""), ("a b", "  x  "), ("#", "!"), ("\\", "\\\\ "), ("k", "line\nbreak\r\n\t\f"), ("=", ":"), ("!", "# no")])
@example(pairs=[("名", "订单😀"), ("e", "\\u0041"), (" ", " "), ("\ufeff", "\u0000")])
@settings(max_examples=400, deadline=None)
def test_java_reads_whatever_we_write_in_its_order(java, pairs):
    assert java.load(properties.dumps(pairs)) == pairs


@given(pairs=st.dictionaries(KEYS, TEXT, max_size=8))
@settings(max_examples=200, deadline=None)
def test_we_read_whatever_java_writes(java, pairs):
    assert properties.loads(java.store(pairs)) == pairs


@given(data=st.binary(max_size=120) | SYNTAX)
@example(data=b"a=1\nb=2\na: 3\n")
@example(data=b"a\\\n  \\\n  b=c\\\n\n#\\\nd")
@example(data=b"a=1\n\\")
@settings(max_examples=600, deadline=None)
def test_of_any_bytes_we_read_what_java_reads_or_refuse_what_it_refuses(java, data):
    # A line of nothing but a backslash before a comment: to Java still a comment, to us a key. Nobody writes that.
    assume(not re.search(rb"\\\r?\n?[ \t\f]*[#!]", data))
    try:
        ours = properties.loads(data)
    except properties.PropertiesError:
        with pytest.raises(ValueError, match="Malformed"):
            java.load(data)
        return
    theirs = dict(java.load(data))
    for read in (ours, theirs):  # nobody asks for a nameless property; Java takes a lone backslash at the end for one
        read.pop("", None)
    assert [(from_hex(to_hex(key)), from_hex(to_hex(value))) for key, value in ours.items()] == list(theirs.items())


# --- nodes --------------------------------------------------------------------------------------------------------------------


def documented_keys():
    """The keys of each node in their order, from the table of docs/znodes.md; without those that it has at times."""
    rows = re.findall(r"^\| `(/zms/\w+)/<name>` \|(.*)\|(.*)\|$", DOCUMENTED.read_text(), re.MULTILINE)
    return {root: re.findall(r"`([\w.]+)(?:=\w+)?`", zms + own.partition(", while")[0]) for root, zms, own in rows}


@pytest.mark.django_db
def test_every_kind_of_node_holds_the_documented_keys_in_their_order_for_java(java, api, api2, topic_fields):
    def done(*arguments):
        answer = api2(*arguments)
        assert answer.status_code < 300, answer.body
        return answer

    done("POST", "clusters", {"name": "kafka-b", "kind": "kafka", "address": "10.0.0.7:9092,10.0.0.8:9092"})
    api("POST", "topics", {"name": "order_topic", **topic_fields})
    done("POST", "topics/order_topic/approval", {"cluster": "builtin"})
    group = {"name": "bill", "application": "order-service", "reason": "bills"}
    api("POST", "consumer-groups", {**group, "subscriptions": [{"topic": "order_topic", "tags": "created || paid"}]})
    done("POST", "consumer-groups/bill/approval", {})
    rows = {row.path: bytes(row.data) for row in Publication.objects.live()}
    assert {path.rpartition("/")[0] for path in rows} == set(documented_keys())
    for path, data in rows.items():
        read = dict(java.load(data))
        assert list(read) == documented_keys()[path.rpartition("/")[0]]
        assert "null" not in read.values()
        assert read["mqadmin.generation"].isdigit()
    assert dict(java.load(rows["/zms/cluster/kafka-b"]))["bootAddr"] == "10.0.0.7:9092,10.0.0.8:9092"
    assert json.loads(dict(java.load(rows["/zms/consumergroup/bill"]))["mqadmin.subscriptions"]) == {"order_topic": "created || paid"}


def test_zookeepers_java_client_reads_the_bytes_that_the_database_wants(world, java):  # noqa: F811
    rows = [
        put_cluster(address="10.0.0.1:9092,10.0.0.2:9092"),
        put_cluster("rocket", "10.0.1.1:9876;10.0.1.2:9876", "rocketmq"),
        put_topic(),
        put_group(),
        services.publish_json(path="/zpt/shop/stress/billing", document={"enable": "1", "task": "stress", "topic": "订单"}, change=why()),
    ]
    world.raw().ensure_path("/zms/cluster")
    foreign = b"bootAddr=x\nteam=\\u8ba2 \\\n   one\n"
    world.raw().create("/zms/cluster/adopted", foreign)
    rows.append(put_cluster("adopted", "10.0.2.1:9092"))
    world.registrar()
    published(*rows)
    for row in Publication.objects.filter(path__in=[row.path for row in rows]):
        assert java.get(world.hosts, row.path) == bytes(row.data), row.path
    assert dict(java.load(java.get(world.hosts, "/zms/cluster/adopted")))["team"] == "订 one"
    assert java.get(world.hosts, "/zms/cluster/rocket") == (
        b"bootAddr=10.0.1.1\\:9876;10.0.1.2\\:9876\nbrokerType=rocketmq\nserverIps=\nmqadmin.generation=1\n"
    )
    assert java.get(world.hosts, "/zpt/shop/stress/billing") == ('{"enable":"1","task":"stress","topic":"订单","generation":1}'.encode())
    assert json.loads(java.get(world.hosts, "/mqadmin/owner"))["deployment"]


# --- a client like ZMS --------------------------------------------------------------------------------------------------------


def test_a_move_makes_a_zms_client_rebuild_once_with_the_new_clusters_addresses(world, java):  # noqa: F811
    rows = [put_cluster(address="10.0.0.1:9092,10.0.0.2:9092"), put_cluster("kafka-b", "10.0.0.7:9092"), put_topic(), put_group()]
    world.registrar()
    published(*rows)
    java.follow(world.hosts, "topic", "orders")
    assert java.next() == "orders build kafka-a 10.0.0.1:9092,10.0.0.2:9092"
    java.follow(world.hosts, "consumergroup", "billing")
    assert java.next() == "billing build kafka-a 10.0.0.1:9092,10.0.0.2:9092"
    wait_for(lambda: Instance.objects.online().count() == 2, what="both instances")
    assert {(one.role, one.ip, one.plain, one.applied_generation) for one in Instance.objects.online()} == {
        ("producer", "10.7.7.7", True, None),
        ("consumer", "10.7.7.7", True, None),
    }

    published(put_topic(cluster="kafka-b"))
    assert java.next() == "orders rebuild kafka-b 10.0.0.7:9092"
    published(put_group(suspend=True))
    assert java.next() == "billing suspend"
    published(put_group())
    assert java.next() == "billing resume"
    # Clients watch no cluster node: whoever depends on it is set again, once each.
    cluster = put_cluster("kafka-b", "10.0.0.9:9092")
    services.republish(paths=["/zms/topic/orders"], change=why())
    published(cluster, "/zms/topic/orders")
    assert java.next() == "orders rebuild kafka-b 10.0.0.9:9092"
    # What only readers of ours look at makes a ZMS client do nothing.
    services.republish(paths=["/zms/topic/orders"], change=why())
    assert java.next() == "orders nothing"

    # A live node is not deleted; when the client is gone, it goes by itself.
    services.retract(path="/zms/topic/orders", change=why())
    wait_for(lambda: "still online" in Publication.objects.get(path="/zms/topic/orders").last_error, what="the refusal")
    java.ask("leave", "orders")
    published("/zms/topic/orders")
    assert world.raw().exists("/zms/topic/orders") is None
    java.ask("leave", "billing")
    wait_for(lambda: not Instance.objects.online().exists(), what="both to be offline")
    assert java.all() == []


def test_what_a_zms_client_refuses_or_breaks_on_is_what_the_contract_says(world, java):  # noqa: F811
    gated = {"clusterName": "kafka-a", "type": "topic", "gatedIps": "10.7.7.7,10.9.9.9", "gatedCluster": "kafka-b"}
    rows = [
        put_cluster(address="a:1"),
        put_cluster("kafka-b", "b:1"),
        put_cluster("ours", "", "builtin"),
        put_topic("on_ours", "ours"),
        services.publish_properties(
            path="/zms/topic/gated", zms=gated, own={}, requires=["/zms/cluster/kafka-a", "/zms/cluster/kafka-b"], change=why()
        ),
    ]
    world.registrar()
    published(*rows)
    java.follow(world.hosts, "topic", "gated")
    assert java.next() == "gated build kafka-b b:1"
    published(services.publish_properties(path="/zms/topic/gated", zms={**gated, "gatedIps": "", "gatedCluster": ""}, own={}, change=why()))
    assert java.next() == "gated rebuild kafka-a a:1"
    with pytest.raises(ValueError, match="not published"):
        java.follow(world.hosts, "topic", "on_ours")
    assert java.next() == "on_ours refuse brokerType builtin"
    with pytest.raises(ValueError, match="not published"):
        java.follow(world.hosts, "topic", "nowhere")
    java.ask("leave", "gated")
    assert java.all() == []
