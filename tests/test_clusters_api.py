"""Clusters over REST: add one, change its address, and every refusal with its code."""

import pytest

from clusters.models import Cluster
from registry.models import Publication

pytestmark = pytest.mark.django_db


def test_the_builtin_store_is_ready(api):
    assert [(c["name"], c["kind"]) for c in api("GET", "clusters").body["results"]] == [("builtin", "builtin")]
    assert bytes(Publication.objects.get(path="/zms/cluster/builtin").data) == (
        b"bootAddr=\nbrokerType=builtin\nserverIps=\nmqadmin.generation=1\n"
    )


def test_an_added_cluster_is_published_with_escaped_separators(api):
    made = api("POST", "clusters", {"name": "kafka-a", "kind": "kafka", "address": "10.0.0.1:9092, 10.0.0.2:9092"})
    assert (made.status_code, made.body["address"]) == (201, "10.0.0.1:9092,10.0.0.2:9092")
    assert bytes(Publication.objects.get(path="/zms/cluster/kafka-a").data) == (
        b"bootAddr=10.0.0.1\\:9092,10.0.0.2\\:9092\nbrokerType=kafka\nserverIps=\nmqadmin.generation=1\n"
    )


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("kafka", ""),
        ("kafka", "host"),
        ("kafka", "host:0"),
        ("kafka", "host:70000"),
        ("kafka", "a:1;b:2"),
        ("rocketmq", "a:1,b:2"),
        ("kafka", "-a:1"),
        ("kafka", "a:1,"),
        ("kafka", "a b:1"),
    ],
)
def test_it_refuses_addresses_that_clients_cannot_read(api, kind, address):
    answer = api("POST", "clusters", {"name": "c", "kind": kind, "address": address})
    assert (answer.status_code, answer.body["errors"][0]["pointer"], Cluster.objects.count()) == (400, "/address", 1)


def test_it_refuses_a_second_builtin_store_duplicates_and_unknown_kinds(api):
    assert api("POST", "clusters", {"name": "b2", "kind": "builtin", "address": "x:1"}).status_code == 400
    assert api("POST", "clusters", {"name": "b2", "kind": "pigeon", "address": "x:1"}).body["errors"][0]["pointer"] == "/kind"
    assert api("POST", "clusters", {"name": "builtin", "kind": "kafka", "address": "x:1"}).body["code"] == "duplicate_name"


def test_the_builtin_store_has_no_address(api):
    assert api.now("PATCH", "clusters/builtin", {"address": "x:1"}).body["code"] == "invalid_address"
    assert api.now("PATCH", "clusters/builtin", {"description": "small topics"}).body["description"] == "small topics"


def test_the_proxies_of_a_rocketmq_cluster_are_published_and_change_what_depends_on_it(api):
    fields = {"kind": "rocketmq", "address": "n1:9876;n2:9876", "proxy_address": "p1:8081; p2:8081"}
    made = api("POST", "clusters", {"name": "rmq-a", **fields})
    assert (made.status_code, made.body["proxy_address"]) == (201, "p1:8081;p2:8081")
    node = Publication.objects.get(path="/zms/cluster/rmq-a")
    assert bytes(node.data) == (
        b"bootAddr=n1\\:9876;n2\\:9876\nbrokerType=rocketmq\nserverIps=\nmqadmin.generation=1\nmqadmin.proxyAddr=p1\\:8081;p2\\:8081\n"
    )
    assert api.now("PATCH", "clusters/rmq-a", {"description": "big"}).body["proxy_address"] == "p1:8081;p2:8081"
    assert api.now("PATCH", "clusters/rmq-a", {"proxy_address": ""}).body["proxy_address"] == ""
    node.refresh_from_db()
    assert bytes(node.data) == b"bootAddr=n1\\:9876;n2\\:9876\nbrokerType=rocketmq\nserverIps=\nmqadmin.generation=2\n"


@pytest.mark.parametrize(("kind", "proxies"), [("rocketmq", "p1"), ("rocketmq", "p1:8081,p2:8081"), ("kafka", "p1:8081")])
def test_it_refuses_proxies_that_clients_cannot_read_and_those_of_others(api, kind, proxies):
    answer = api("POST", "clusters", {"name": "c", "kind": kind, "address": "a:1", "proxy_address": proxies})
    assert (answer.status_code, answer.body["errors"][0]["pointer"], Cluster.objects.count()) == (400, "/proxy_address", 1)
