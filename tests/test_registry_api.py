"""Publications and instances over REST."""

import pytest
from registry_world import put_cluster, put_topic

from registry.models import Instance, Publication

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
