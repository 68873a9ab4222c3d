"""Publications and instances over REST."""

import pytest
from registry_world import put_cluster, put_topic, why

from registry import services
from registry.models import Instance, Publication, Release

pytestmark = pytest.mark.django_db


def instance(path, number, **values):
    fields = {"role": "producer", "app": "order-service", "czxid": number, "mzxid": number}
    return Instance.objects.create(path=path, node=f"n{number}", znode=f"{path}/n{number}", **fields | values)


def test_the_list_shows_how_far_each_is(api):
    put_cluster()
    topic = put_topic()
    Publication.objects.filter(pk=topic.pk).update(published_generation=1)
    instance(topic.path, 1, applied_generation=1)
    instance(topic.path, 2, applied_generation=0)
    instance(topic.path, 3, plain=True)
    instance(topic.path, 4, applied_generation=1, online=False)
    answer = api("GET", "publications?path=/zms/topic/orders")
    assert answer.status_code == 200
    row = answer.body["results"][0]
    assert (row["path"], row["state"], row["generation"], row["published_generation"]) == (topic.path, "published", 1, 1)
    assert row["applied"] == {"online": 3, "applied": 1, "outdated": 1, "unknown": 1}
    assert "content" not in row


def test_the_detail_shows_the_bytes_and_what_it_waits_for(api):
    topic = put_topic()
    answer = api("GET", f"publications/{topic.pk}")
    assert answer.body["content"].startswith("clusterName=kafka-a\ntype=topic\n")
    assert (answer.body["state"], answer.body["waits_for"], answer.body["foreign_content"]) == ("pending", ["/zms/cluster/kafka-a"], None)


def test_the_list_is_filtered(api):
    cluster, topic = put_cluster(), put_topic()
    Publication.objects.filter(pk=cluster.pk).update(published_generation=1)
    assert [row["path"] for row in api("GET", "publications?waiting=true&path_prefix=/zms/topic/").body["results"]] == [topic.path]
    assert cluster.path in [row["path"] for row in api("GET", "publications?waiting=false").body["results"]]
    assert [row["path"] for row in api("GET", "publications?root=/zms/topic").body["results"]] == [topic.path]


def test_instances_say_what_they_have_applied(api):
    topic = put_topic()
    Publication.objects.filter(pk=topic.pk).update(published_generation=1)
    instance(topic.path, 1, applied_generation=1)
    instance(topic.path, 2, applied_generation=0)
    instance(topic.path, 3, plain=True)
    instance(topic.path, 4, online=False)
    rows = api("GET", f"instances?path={topic.path}").body["results"]
    assert {row["node"]: row["applied"] for row in rows} == {"n1": "applied", "n2": "outdated", "n3": "unknown", "n4": "offline"}
    assert [row["node"] for row in api("GET", "instances?applied=outdated").body["results"]] == ["n2"]
    assert [row["node"] for row in api("GET", "instances?online=false").body["results"]] == ["n4"]
    assert api("GET", f"instances/{rows[0]['id']}").body["znode"] == "/zms/topic/orders/n1"


@pytest.mark.parametrize("resource", ["publications", "instances"])
def test_reading_needs_the_permission_and_writing_is_not_offered(api, api_without_rights, api_anonymous, resource):
    assert api_anonymous("GET", resource).status_code == 401
    assert api_without_rights("GET", resource).status_code == 403
    assert api("POST", resource, {}).status_code == 405
    assert api("GET", f"{resource}/999999").status_code == 404


def test_lists_need_a_constant_number_of_statements(api, django_assert_max_num_queries):
    for number in range(20):
        put_topic(f"t{number}")
        instance(f"/zms/topic/t{number}", number)
    with django_assert_max_num_queries(6):
        assert len(api("GET", "publications?root=/zms/topic").body["results"]) == 20
    with django_assert_max_num_queries(6):
        assert len(api("GET", "instances").body["results"]) == 20


def test_releases_are_listed_newest_first_and_told_apart(api):
    put_cluster()
    put_topic()
    put_topic(cluster="kafka-b")
    seen = api("GET", "releases?topic=orders").body["results"]
    assert [(r["path"], r["generation"], r["latest"], r["state"]) for r in seen] == [
        ("/zms/topic/orders", 2, True, "pending"), ("/zms/topic/orders", 1, False, "pending"),
    ]  # fmt: skip
    assert (seen[0]["kind"], seen[0]["author"], seen[0]["message"], seen[0]["retired"]) == ("normal", "system", "a test", False)
    for query, found in {
        "path=/zms/cluster/kafka-a": 1, "cluster=kafka-a": 1, "group=orders": 0, f"change={seen[0]['change']}": 1,
        "topic=orders&kind=rollback": 0,
        "topic=orders&author=system": 2, "topic=orders&author=alice": 0, "topic=orders&since=2040-01-01T00:00:00Z": 0,
        "topic=orders&until=2040-01-01T00:00:00Z": 2,
    }.items():  # fmt: skip
        assert len(api("GET", f"releases?{query}").body["results"]) == found, query
    assert api("GET", "releases?change=x").status_code == 400


def test_a_release_says_what_it_changed_key_by_key(api):
    first, second = (put_topic(cluster=name).generation for name in ("kafka-a", "kafka-b"))
    of = {r["generation"]: r["id"] for r in api("GET", "releases?topic=orders").body["results"]}
    document = api("GET", f"releases/{of[second]}").body
    assert document["compared_with"] == first
    assert document["differences"] == [{"key": "clusterName", "before": "kafka-a", "after": "kafka-b", "mark": "changed"}]
    assert document["content"].startswith("clusterName=kafka-b\ntype=topic\n")
    made = api("GET", f"releases/{of[first]}").body
    assert (made["compared_with"], {one["mark"] for one in made["differences"]}) == (None, {"added"})
    assert {one["key"] for one in made["differences"]} >= {"clusterName", "type", "mqadmin.drainClusters"}


def test_fields_of_json_come_and_go_and_a_retired_node_loses_all(api):
    path = "/zpt/app/task/bills"
    services.publish_json(path=path, document={"enable": "0", "task": "task", "leaseUntil": None}, change=why())
    services.publish_json(path=path, document={"enable": "1", "task": "task", "more": [1]}, change=why())
    services.retract(path=path, change=why())
    gone, changed, _made = (api("GET", f"releases/{r['id']}").body for r in api("GET", f"releases?path={path}").body["results"])
    assert {(d["key"], d["before"], d["after"], d["mark"]) for d in changed["differences"]} == {
        ("enable", "0", "1", "changed"), ("more", None, "[1]", "added"), ("leaseUntil", "null", None, "removed"),
    }  # fmt: skip
    assert (gone["retired"], gone["content"], {d["mark"] for d in gone["differences"]}) == (True, "", {"removed"})


def test_what_was_before_is_not_made_up_when_it_is_not_kept(api):
    put_topic()
    put_topic(cluster="kafka-b")
    Release.objects.filter(generation=1).delete()
    [left] = api("GET", "releases?topic=orders").body["results"]
    document = api("GET", f"releases/{left['id']}").body
    assert (document["compared_with"], document["differences"]) == (None, None)
