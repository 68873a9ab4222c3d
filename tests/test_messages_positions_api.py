"""Rewind, skip and undo over REST and in the console: who may, what is refused, what is kept in the audit."""

import pytest
from messages_world import world  # noqa: F401 - a fixture

from core.audit.models import AuditEntry
from messages import services
from tests.store_world import sql


@pytest.fixture(autouse=True)
def _committed(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def api(world):  # noqa: F811
    return world.api


@pytest.fixture
def pair(world):  # noqa: F811
    """A new topic with three messages, and a group that has had two of them."""
    topic = world.topic()
    group = world.group(topic)
    sent = world.api("POST", f"topics/{topic.name}/messages", {"messages": [{"body": b} for b in "abc"]}).body["messages"]
    services.tick()
    found = world.api("POST", f"consumer-groups/{group.name}/pull", {"max": 2}).body
    acks = [{"lease": found["lease"], "id": m["id"], "status": "succeeded"} for m in found["messages"]]
    world.api("POST", f"consumer-groups/{group.name}/acks", {"acks": acks})
    return topic.name, group.name, [m["id"] for m in sent]


def preview(api, group, topic, to):
    return api("GET", f"consumer-groups/{group}/resets/preview?topic={topic}&to={to}")


def counts(api, group):
    return {k: v for k, v in api("GET", f"consumer-groups/{group}/status").body["counts"].items() if v}


def refused(response, status, code):
    assert (response.status_code, response.body["code"]) == (status, code), response.body
    assert response.body["detail"]
    return response.body


@pytest.mark.django_db
def test_the_mark_has_the_database_prepared_for_this_module():
    assert True


def test_a_rewind_is_previewed_done_listed_undone_and_audited(api, pair):
    topic, group, ids = pair
    seen = preview(api, group, topic, "earliest")
    assert seen.status_code == 200
    assert (seen.body["kind"], seen.body["repeated"], seen.body["succeeded"], seen.body["skipped"]) == ("rewind", 2, 2, 0)
    assert counts(api, group) == {"waiting": 1, "succeeded": 2}
    wanted = {"topic": topic, "position": seen.body["position"], "fingerprint": seen.body["fingerprint"], "reason": "wrong prices"}
    tried = api("POST", f"consumer-groups/{group}/resets?dry_run=true", wanted)
    assert tried.status_code == 200, tried.body
    assert counts(api, group) == {"waiting": 1, "succeeded": 2}
    done = api("POST", f"consumer-groups/{group}/resets", wanted, **{"Idempotency-Key": f"once-{group}"})
    assert done.status_code == 201, done.body
    again = api("POST", f"consumer-groups/{group}/resets", wanted, **{"Idempotency-Key": f"once-{group}"})
    assert (again.body["id"], again.headers["Idempotency-Replayed"]) == (done.body["id"], "true")
    assert done.headers["Location"].endswith(f"/consumer-groups/{group}/resets/{done.body['id']}")
    assert (done.body["repeated"], done.body["undoable"], done.body["done_by"], done.body["reason"]) == (2, True, "wang", "wrong prices")
    assert counts(api, group) == {"waiting": 3}
    one = api("GET", f"consumer-groups/{group}/resets/{done.body['id']}")
    assert one.body == done.body
    assert [r["id"] for r in api("GET", f"consumer-groups/{group}/resets").body["results"]] == [done.body["id"]]
    undone = api("POST", f"consumer-groups/{group}/resets/{done.body['id']}/undo", {"reason": "it was right"})
    assert (undone.status_code, undone.body["state"], undone.body["restored"], undone.body["undoable"]) == (200, "undone", 2, False)
    assert counts(api, group) == {"waiting": 1, "succeeded": 2}
    assert refused(api("POST", f"consumer-groups/{group}/resets/{done.body['id']}/undo", {}), 409, "already_undone")
    entries = AuditEntry.objects.filter(name=group).order_by("pk").values_list("action", "reason")
    assert list(entries)[-2:] == [("rewind", "wrong prices"), ("undo rewind", "it was right")]
    assert api("GET", f"messages/{ids[0]}").body["groups"][0]["status"] == "succeeded"


def test_acting_on_a_stale_preview_is_refused_and_does_nothing(api, pair):
    topic, group, _ids = pair
    seen = preview(api, group, topic, "earliest").body
    api("POST", f"consumer-groups/{group}/pull", {"max": 1})
    before = counts(api, group)
    wanted = {"topic": topic, "position": seen["position"], "fingerprint": seen["fingerprint"]}
    assert refused(api("POST", f"consumer-groups/{group}/resets", wanted), 409, "stale_preview")["hint"]
    assert counts(api, group) == before
    assert api("GET", f"consumer-groups/{group}/resets").body["results"] == []


def test_every_bad_target_has_its_problem(world, api, pair):  # noqa: F811
    topic, group, ids = pair
    other = world.topic().name
    for to, status, code in (
        ("2020-01-02T00:00:00Z", 409, "beyond_retention"),
        ("1", 409, "beyond_retention"),
        ("2222-01-02T00:00:00Z", 409, "position_ahead"),
        ("99999999999999999999", 409, "position_ahead"),
        (str(ids[2] - 2**19), 404, "not_found"),
        ("yesterday", 400, "invalid_time"),
        ("2026-02-30T00:00:00Z", 400, "invalid_time"),
    ):
        refused(preview(api, group, topic, to), status, code)
    refused(preview(api, group, other, "earliest"), 400, "not_subscribed")
    refused(preview(api, group, "no_such_topic", "earliest"), 400, "not_subscribed")
    refused(preview(api, "no_such_group", topic, "earliest"), 404, "not_found")
    refused(api("GET", f"consumer-groups/{group}/resets/preview?topic={topic}"), 400, "invalid")
    refused(api("POST", f"consumer-groups/{group}/resets", {"topic": topic, "position": 1}), 400, "invalid")
    refused(api("POST", f"consumer-groups/{group}/resets", {"topic": topic, "position": "1", "fingerprint": "x"}), 400, "invalid")
    refused(api("POST", f"consumer-groups/{group}/resets", {"topic": topic, "position": 1, "fingerprint": "x"}), 409, "beyond_retention")
    refused(api("POST", f"consumer-groups/{group}/resets/{10**9}/undo", {}), 404, "not_found")
    refused(preview(world.api_viewer, group, topic, "earliest"), 403, "forbidden")
    assert counts(api, group) == {"waiting": 1, "succeeded": 2}


def test_in_the_console_a_person_previews_types_the_name_and_undoes(world, api, pair):  # noqa: F811
    topic, group, ids = pair
    browser = world.browser(world.admin)
    page = f"/admin/groups/{group}/position/"
    assert topic in browser.get(page).content.decode()
    asked = f"{page}?topic={topic}&to=id&id={ids[1]}"
    form = browser.get(asked).context["confirm"]
    fields = {"position": form.initial["position"], "fingerprint": form.initial["fingerprint"], "reason": "again"}
    wrong = browser.post(asked, {**fields, "confirm_name": "something else"})
    assert (wrong.status_code, "confirm_name" in wrong.context["confirm"].errors) == (200, True)
    assert counts(api, group) == {"waiting": 1, "succeeded": 2}
    api("POST", f"consumer-groups/{group}/pull", {"max": 1})
    stale = browser.post(asked, {**fields, "confirm_name": group})
    assert stale.context["problem"].code == "stale_preview"
    assert stale.context["plan"].repeated == 2
    fresh = stale.context["confirm"]
    assert fresh.initial["fingerprint"] != fields["fingerprint"]
    done = browser.post(asked, {**fresh.initial, "reason": "again", "confirm_name": group}, follow=True)
    assert done.redirect_chain == [(page, 302)]
    assert counts(api, group) == {"waiting": 2, "succeeded": 1}
    (move,) = done.context["moves"]
    assert move["undo"]
    undo = f"{page}{move['made'].pk}/undo/"
    assert browser.get(undo).status_code == 200
    assert browser.post(undo, {"reason": ""}).status_code == 302
    assert counts(api, group) == {"processing": 1, "succeeded": 2}
    sql("SELECT mq_private_topic(%s, %s)", done.context["group"].pk, move["made"].topic_id)  # of edited dead letters: nobody moves it
    private = str(sql("SELECT min(topic_id) FROM mq_cursor WHERE group_id = %s", done.context["group"].pk))
    shown = browser.get(f"{page}?topic={private}&to=earliest")
    assert ([row["topic"] for row in shown.context["rows"]], shown.context["plan"]) == ([topic], None)
    for broken in (f"{page}?topic=x&to=y", f"{page}?topic={topic}&to=time", f"{page}?topic={topic}&to=id&id=1", f"{page}{10**9}/undo/"):
        assert browser.get(broken).status_code in {200, 404}


def test_who_only_reads_sees_where_a_group_stands_and_moves_nothing(world, api, pair):  # noqa: F811
    from django.contrib.auth.models import Permission

    from accounts.models import User

    topic, group, _ids = pair
    User.objects.filter(pk__in=[world.viewer.pk, world.nobody.pk]).update(is_staff=True)
    world.viewer.user_permissions.add(Permission.objects.get(codename="view_reset"))
    browser = world.browser(User.objects.get(pk=world.viewer.pk))
    page = f"/admin/groups/{group}/position/?topic={topic}&to=earliest"
    shown = browser.get(page)
    assert (shown.status_code, shown.context["plan"], bool(shown.context["why_not"])) == (200, None, True)
    assert browser.post(page, {"confirm_name": group, "reason": "x", "position": 1, "fingerprint": "x"}).status_code == 403
    assert world.browser(User.objects.get(pk=world.nobody.pk)).get(page).status_code == 403
    assert counts(api, group) == {"waiting": 1, "succeeded": 2}
