"""Developers of two teams in one world: each sees and touches what is theirs, by REST and in the console; the rest is not there."""

from types import SimpleNamespace

import pytest
from conftest import Api, token_for
from console_world import PASSWORD, group, instance, make_people, topic
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import ApiToken, Application, User
from accounts.roles import AUDITOR, DEVELOPER
from accounts.rolesync import group_of
from consumers import shadow as shadows
from core.approvals.models import Request
from registry.models import Publication, Release

pytestmark = pytest.mark.django_db


def person(name, role):
    made = User.objects.create_user(name, password=PASSWORD, is_staff=True)
    made.groups.add(group_of(role))
    return made


@pytest.fixture
def world():
    people = make_people()
    dana, eve = person("dana", DEVELOPER), person("eve", DEVELOPER)
    mine = Application.objects.create(name="mine", owner=people.alice)
    mine.members.add(dana)
    theirs = Application.objects.create(name="theirs", owner=eve)
    made = SimpleNamespace(people=people, dana=dana, eve=eve, mine=mine, theirs=theirs, auditor=person("aud", AUDITOR))
    made.own = topic(people, mine, "own_topic")
    made.foreign = topic(people, theirs, "foreign_topic")
    made.secret = topic(people, theirs, "secret_topic")
    made.own_group = group(people, mine, "own_group", [("own_topic", "*"), ("foreign_topic", "*")])
    made.foreign_group = group(people, theirs, "foreign_group", [("own_topic", "*")])
    made.own_shadow = shadows.create(actor=people.alice, application=mine, task="t", group=made.own_group, topic=made.own)
    made.foreign_shadow = shadows.create(actor=people.alice, application=theirs, task="t", group=made.foreign_group, topic=made.own)
    for number, thing in enumerate((made.own, made.foreign, made.own_group, made.foreign_group), 1):
        instance(thing, number=number)
    made.api = Api(Client(), token_for(dana))
    made.page = Client()
    made.page.force_login(dana)
    return made


def names(response, field="name"):
    assert response.status_code == 200, response.body
    return {row[field] for row in response.body["results"]}


def test_lists_hold_what_is_within_reach(world):
    api = world.api
    assert names(api("get", "topics")) == {"own_topic"}
    assert names(api("get", "consumer-groups")) == {"own_group"}
    assert names(api("get", "applications")) == {"mine"}
    assert names(api("get", "shadow-tasks"), "group") == {"own_group"}
    assert names(api("get", "instances"), "path") == {"/zms/topic/own_topic", "/zms/consumergroup/own_group"}
    own = {"/zms/topic/own_topic", "/zms/consumergroup/own_group", "/zpt/mine/t/own_group"}
    assert names(api("get", "publications"), "path") == own
    assert names(api("get", "releases"), "path") == own
    assert {row["name"] for row in api("get", "clusters").body["results"]} == {"builtin"}
    everything = Api(Client(), token_for(world.auditor))
    assert names(everything("get", "topics")) == {"own_topic", "foreign_topic", "secret_topic"}


def test_what_belongs_to_another_team_is_not_there(world):
    api = world.api
    publication = Publication.objects.get(path="/zms/topic/foreign_topic")
    for method, path, body in [
        ("get", "topics/foreign_topic", None),
        ("get", "consumer-groups/foreign_group", None),
        ("get", "consumer-groups/foreign_group/status", None),
        ("get", "consumer-groups/foreign_group/dead-letters", None),
        ("get", "consumer-groups/foreign_group/redrives", None),
        ("post", "consumer-groups/foreign_group/redrives", {"all": True}),
        ("post", "consumer-groups/foreign_group/suspension", {"reason": "x"}),
        ("get", f"shadow-tasks/{world.foreign_shadow.pk}", None),
        ("post", f"shadow-tasks/{world.foreign_shadow.pk}/start", {"minutes": 5, "reason": "x"}),
        ("get", f"publications/{publication.pk}", None),
        ("get", "applications/theirs", None),
        ("get", "messages?topic=secret_topic", None),
        ("get", "delayed-messages?topic=secret_topic", None),
        ("post", "topics/foreign_topic/messages", {"body": "x"}),
        ("post", "consumer-groups/foreign_group/pull", {}),
        ("post", "consumer-groups/foreign_group/next", {}),
        ("post", "consumer-groups/foreign_group/acks", {"acks": [{"lease": "1", "id": 1, "status": "succeeded"}]}),
    ]:
        response = api(method, path, body)
        assert (response.status_code, response.body["code"]) == (404, "not_found"), path
    assert api("get", "topics/own_topic").status_code == 200
    assert api("get", "consumer-groups/own_group/status").status_code == 200
    assert api("get", "messages?topic=foreign_topic").status_code == 200, "an own active group is subscribed to it"
    assert api("post", "topics/own_topic/messages", {"body": "x"}).status_code == 201
    assert api("post", "consumer-groups/own_group/pull", {}).status_code == 200


def test_nothing_is_asked_for_in_the_name_of_another_application(world):
    fields = {"name": "new_topic", "expected_rate": 1, "message_bytes": 1, "reason": "x"}
    refused = world.api("post", "topics", {**fields, "application": "theirs"})
    assert refused.status_code == 403
    assert world.api("post", "topics", {**fields, "application": "mine"}).status_code == 201
    wanted = {"name": "new_group", "application": "mine", "reason": "x", "subscriptions": [{"topic": "secret_topic", "tags": "*"}]}
    assert world.api("post", "consumer-groups", wanted).status_code == 201, "the approver decides"
    assert world.api("get", "messages?topic=secret_topic").status_code == 404, "not before it is approved"
    shadow = {"application": "theirs", "task": "u", "group": "own_group", "topic": "own_topic"}
    assert world.api("post", "shadow-tasks", shadow).body["code"] == "not_your_application"
    refused = [
        world.api("post", "shadow-tasks", {**shadow, "application": "mine", "group": name}) for name in ("foreign_group", "no_group")
    ]
    assert [answer.status_code for answer in refused] == [400, 400]
    said = [answer.body["detail"].replace(name, "…") for answer, name in zip(refused, ("foreign_group", "no_group"), strict=True)]
    assert said[0] == said[1], "whose it is does not show"


def test_the_console_shows_and_does_the_same(world):
    def status(name, *args, **query):
        return world.page.get(reverse(f"admin:{name}", args=args), query).status_code

    for name, own, other in [
        ("topics_detail", "own_topic", "foreign_topic"),
        ("topics_publication", "own_topic", "foreign_topic"),
        ("topics_audit", "own_topic", "foreign_topic"),
        ("consumers_detail", "own_group", "foreign_group"),
        ("consumers_suspend", "own_group", "foreign_group"),
        ("consumers_shadow_start", world.own_shadow.pk, world.foreign_shadow.pk),
        ("registry_publication", *(Publication.objects.get(path=f"/zms/topic/{n}").pk for n in ("own_topic", "foreign_topic"))),
        ("topics_releases", "own_topic", "foreign_topic"),
        ("registry_release", *(Release.objects.get(publication__path=f"/zms/topic/{n}").pk for n in ("own_topic", "foreign_topic"))),
    ]:
        assert (status(name, own), status(name, other)) == (200, 404), name
    assert status("messages_dead", group="foreign_group") == 404
    assert status("topics_approve", "own_topic") == 403
    for name in ("index", "topics_list", "consumers_list", "consumers_shadow", "registry_publications", "registry_instances", "audit_list",
                 "registry_releases",
                                 "requests", "messages_delayed", "messages_dead", "topics_apply", "consumers_shadow_add"):  # fmt: skip
        content = world.page.get(reverse(f"admin:{name}")).content.decode()
        for word in ("foreign_group", "secret_topic", "theirs"):
            assert word not in content, (name, word)
    assert "foreign_group" not in world.page.get(reverse("admin:topics_detail", args=["own_topic"])).content.decode()
    found = world.page.get(reverse("admin:find"), {"q": "o"}).content.decode()
    assert "own_topic" in found
    assert "foreign_group" not in found


def test_counts_are_those_of_what_is_seen(world):
    frame = world.page.get(reverse("admin:index")).context["frame"]
    counts = {item["entry"].id: item["count"] for section in frame["sections"] for item in section["entries"]}
    assert (counts["topics"], counts["groups"], counts["instances"], counts["applications"]) == (1, 1, 2, 1)
    assert frame["role"] == "Developer"


def test_stop_all_stops_ones_own(world):
    for shadow in (world.own_shadow, world.foreign_shadow):
        shadows.start(actor=world.people.alice, shadow=shadow, minutes=5, reason="x")
    assert world.page.post(reverse("admin:consumers_shadow_stop_all"), {"reason": "x"}).status_code == 302
    for shadow, on in ((world.own_shadow, False), (world.foreign_shadow, True)):
        shadow.refresh_from_db()
        assert shadow.enabled is on


def test_asking_for_a_change_of_what_is_not_ones_own_tells_nothing_of_it(world):
    """Neither that it is there, nor its state, nor whether a value is the one it has."""
    topic(world.people, world.theirs, "waiting_topic", state="pending")
    rate = {"expected_rate": world.foreign.expected_rate}
    asks = [
        ("topic.change", {"expected_rate": 7}, ("foreign_topic", "waiting_topic", "no_topic")),
        ("topic.change", rate, ("foreign_topic", "no_topic")),
        ("topic.retire", {}, ("foreign_topic", "waiting_topic", "no_topic")),
        ("group.change", {"max_attempts": world.foreign_group.max_attempts}, ("foreign_group", "no_group")),
        ("group.retire", {}, ("foreign_group", "no_group")),
    ]
    for kind, payload, targets in asks:
        answers = [world.api("post", "requests", {"kind": kind, "target": name, "payload": payload, "reason": "x"}) for name in targets]
        assert {answer.status_code for answer in answers} == {400}, [answer.body for answer in answers]
        said = {answer.body["detail"].replace(name, "…") for answer, name in zip(answers, targets, strict=True)}
        assert len(said) == 1, said


def test_who_sees_all_as_an_auditor_still_does_only_what_is_theirs(world):
    """Reading everything by one role widens nothing of what another lets one do."""
    world.dana.groups.add(group_of(AUDITOR))
    api = Api(Client(), token_for(world.dana))
    topic(world.people, world.theirs, "waiting_topic", state="pending")
    number = Request.objects.get(target="waiting_topic").pk
    assert api("get", "topics/foreign_topic").status_code == api("get", f"requests/{number}").status_code == 200
    for method, path, body in (
        ("post", f"requests/{number}/comments", {"text": "x"}),
        ("post", f"requests/{number}/withdrawal", {}),
        ("patch", f"requests/{number}", {"reason": "y"}),
        ("post", f"requests/{number}/approval", {}),
        ("post", "consumer-groups/foreign_group/suspension", {"reason": "x"}),
        ("post", "topics/foreign_topic/messages", {"body": "x"}),
        ("post", "consumer-groups/foreign_group/pull", {}),
        ("post", f"shadow-tasks/{world.foreign_shadow.pk}/start", {"minutes": 5, "reason": "x"}),
        ("patch", "applications/theirs", {"description": "x"}),
        ("post", "applications/theirs/keys", {}),
    ):
        assert api(method, path, body, **({"If-Match": "*"} if method == "patch" else {})).status_code in {403, 404}, path
    one = api("post", "bulk/consumer-groups", {"action": "suspend", "items": [{"name": "foreign_group"}], "values": {"reason": "x"}})
    assert one.status_code == 404 or [row["status"] for row in one.body["results"]] == [404], one.body
    assert not type(world.foreign_group).objects.filter(suspended=True).exists()


def test_a_token_to_read_does_nothing_with_ones_own_request(world):
    _token, secret = ApiToken.issue(user=world.dana, name="r", expires_at=timezone.now() + timezone.timedelta(hours=1), scopes=["read"])
    fields = {"name": "asked_topic", "application": "mine", "expected_rate": 1, "message_bytes": 1, "reason": "x"}
    assert world.api("post", "topics", fields).status_code == 201
    number, reader = Request.objects.get(target="asked_topic").pk, Api(Client(), secret)
    for path, body in (("withdrawal", {}), ("comments", {"text": "x"}), ("approval", {}), ("rejection", {"reason": "x"})):
        assert reader("post", f"requests/{number}/{path}", body).status_code == 403, path
    assert reader("patch", f"requests/{number}", {"reason": "y"}, **{"If-Match": "*"}).status_code == 403
    assert Request.objects.get(pk=number).state == "pending"
    assert world.api("post", f"requests/{number}/withdrawal", {}).status_code == 200


def test_a_developer_neither_gives_an_application_away_nor_takes_it(world):
    refused = world.api("patch", "applications/mine", {"owner": "dana"}, **{"If-Match": "*"})
    assert (refused.status_code, refused.body["code"]) == (403, "forbidden")
    assert world.api("patch", "applications/mine", {"description": "ours"}, **{"If-Match": "*"}).status_code == 200
    world.mine.refresh_from_db()
    assert world.mine.owner == world.people.alice
