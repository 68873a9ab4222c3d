"""How long a topic's messages are kept, as people ask for it and see it; the partitions of the store and who needs them."""

import pytest
from messages_world import world  # noqa: F401 - a fixture

from accounts.models import User
from clusters.models import Cluster
from core.approvals import workflow
from messages import services
from messages.types import NewMessage
from tests.store_world import pull, settle, sql
from tests.test_messages_store_retention import past
from topics import services as topics
from topics.models import Topic

__all__ = ["past"]
pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def people(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        yield world


def change(people, topic, **wanted):
    asked = workflow.submit(actor=people.admin, kind="topic.change", target=topic.name, payload=wanted, reason="tests")
    workflow.approve(actor=User.objects.get(username="zhou"), request=asked, version=asked.version)


def rule(topic):
    return sql("SELECT (mode, age_s, size_bytes)::text FROM mq_retention WHERE topic_id = %s", topic.pk)


def test_a_rule_is_applied_for_approved_changed_and_shown(people):
    name = people.topic(approve=False).name
    assert people.api.now("PATCH", f"topics/{name}", {"retention": "limit", "retention_hours": 24}).body["retention_hours"] == 24
    topic = Topic.objects.get(name=name)
    assert rule(topic) is None
    topics.approve(actor=User.objects.get(username="zhou"), topic=topic, cluster=Cluster.objects.get(name="builtin"))
    assert rule(topic) == "(L,86400,0)"
    browser = people.browser(people.admin)
    form = browser.get(f"/admin/topics/{name}/ask-change/").content.decode()
    assert 'name="retention_hours" value="24"' in form
    assert '<option value="limit" selected>' in form
    page = browser.get(f"/admin/topics/{name}/").content.decode()
    assert "by age and size alone, done or not; kept for 24 h" in page
    assert "is skipped" in page
    change(people, topic, retention="done", retention_mib=3)
    assert rule(topic) == f"(D,86400,{3 << 20})"
    change(people, topic, retention="store", retention_hours=0, retention_mib=0)
    assert rule(topic) == "(S,0,0)"
    assert rule(people.topic()) is None


@pytest.mark.parametrize(
    ("wanted", "pointer"),
    [
        ({"retention": "for ever"}, "/retention"),
        ({"retention": "limit"}, "/retention"),
        ({"retention_hours": 5}, "/retention_hours"),
        ({"retention_mib": 5}, "/retention_mib"),
        ({"retention": "done", "retention_hours": -1}, "/retention_hours"),
        ({"retention": "done", "retention_hours": 10**6}, "/retention_hours"),
        ({"retention": "done", "retention_mib": 10**10}, "/retention_mib"),
        ({"retention": "done", "retention_mib": "5"}, "/retention_mib"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_where_it_is_wrong(people, wanted, pointer):
    topic = people.topic(approve=False)
    answer = people.api.now("PATCH", f"topics/{topic.name}", wanted)
    assert (answer.status_code, answer.body["errors"][0]["pointer"]) == (400, pointer), answer.body
    assert Topic.objects.get(pk=topic.pk).retention == "store"


def test_what_is_kept_of_a_topic_is_told_and_no_rewind_goes_below_it(people):
    topic, other = people.topic(), people.topic()
    done, behind = people.group(topic), people.group(topic)
    services.send(topic_id=topic.pk, messages=[NewMessage(str(n).encode()) for n in range(10)])
    services.tick()
    batch = pull(done.pk)
    settle(done.pk, batch)
    ids = [m.id for m in batch.messages]
    settle(behind.pk, pull(behind.pk, limit=4))
    change(people, topic, retention="done")
    services.retain(every="0 s")
    kept = people.api("GET", f"topics/{topic.name}/retention").body
    assert (kept["retention"], kept["floor"], kept["earliest_id"]) == ("done", ids[3], ids[3] + 1)
    assert (kept["messages"], kept["holders_total"], [h["group"] for h in kept["holders"]]) == (6, 1, [behind.name])
    assert 6 * 90 < kept["bytes_estimate"] < 6 * 200
    assert kept["oldest_at"]
    assert people.api("GET", f"topics/{other.name}/retention").body["messages"] is None
    page = people.browser(people.admin).get(f"/admin/topics/{topic.name}/").content.decode()
    assert str(ids[3]) in page
    answer = people.api("GET", f"consumer-groups/{done.name}/resets/preview?topic={topic.name}&to={ids[0]}")
    assert (answer.status_code, answer.body["code"], answer.body["earliest_id"]) == (409, "beyond_retention", ids[3] + 1)
    assert answer.body["hint"]
    assert people.api("GET", f"messages/{ids[0]}").status_code == 404
    assert people.api("GET", f"messages/{ids[5]}").status_code == 200


def test_who_may_not_see_groups_is_told_how_many_but_not_which(people):
    from conftest import Api, token_for
    from django.contrib.auth.models import Permission
    from django.test import Client

    topic = people.topic()
    people.group(topic)
    services.send(topic_id=topic.pk, messages=[NewMessage(b"x")])
    services.tick()
    viewer = User.objects.create_user("of_topics_only")
    viewer.user_permissions.set(Permission.objects.filter(codename="view_topic"))
    try:
        body = Api(Client(), token_for(viewer))("GET", f"topics/{topic.name}/retention").body
        assert (body["holders"], body["holders_total"]) == ([], 1)
    finally:
        viewer.delete()


def test_partitions_are_shown_with_who_needs_them_to_those_who_may_see_it(people, past):
    topic, keeping = people.topic(), people.topic()
    group = people.group(topic)
    low = past.partition(2021)
    past.send(topic.pk, low, 3)
    past.send(keeping.pk, low + 9, 1)
    change(people, keeping, retention="done", retention_hours=48)
    (shown,) = [p for p in people.api("GET", "storage/partitions").body["results"] if p["name"] == "mq_message_past2021"]
    assert shown["groups"] == [{"group": group.name, "instance": None, "topic": topic.name, "status": "waiting", "messages": 3}]
    assert (shown["state"], shown["can_go_at"], shown["begins_at"][:10], shown["other_topics"]) == ("behind", None, "2021-01-01", 1)
    assert [t["topic"] for t in shown["topics"]] == [keeping.name]
    page = people.browser(people.admin).get("/admin/storage/").content.decode()
    for words in ("mq_message_past2021", group.name, keeping.name, f"/admin/groups/{group.name}/", "Delayed messages"):
        assert words in page
    batch = pull(group.pk)
    settle(group.pk, batch, "dead")
    page = people.browser(people.admin).get("/admin/storage/").content.decode()
    assert f"/admin/dead-letters/?group={group.name}&amp;topic={topic.name}" in page
    for person, api in ((people.viewer, people.api_viewer), (people.nobody, people.api_nobody)):
        assert api("GET", "storage/partitions").status_code == 403
        assert people.browser(person).get("/admin/storage/").status_code in {302, 403}
    assert people.api_anonymous("GET", "storage/partitions").status_code == 401
