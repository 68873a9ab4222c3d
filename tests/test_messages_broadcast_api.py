"""Broadcast groups as their users meet them, over REST and in the console: applied for, pulled from, moved, redriven, given up."""

from datetime import timedelta

import pytest
from django.urls import reverse
from messages_world import world  # noqa: F401 - a fixture

from core.approvals.models import Request
from core.audit.models import AuditEntry
from messages import broadcast, services, tasks
from registry.models import Publication
from tests.store_world import sql


@pytest.mark.django_db
def test_the_mark_has_the_database_prepared_for_this_module():
    assert True


@pytest.fixture(autouse=True)
def _committed(request, django_db_blocker):
    if request.node.get_closest_marker("django_db"):
        yield
        return
    request.getfixturevalue("world")
    broadcast.forget_all()
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def api(world):  # noqa: F811
    return world.api


@pytest.fixture
def topic(world):  # noqa: F811
    return world.topic()


@pytest.fixture
def group(world, topic):  # noqa: F811
    return world.group(topic, mode="broadcast")


def of(group, what=""):
    return f"consumer-groups/{group.name}{what}"


def send(api, topic, *bodies):
    ids = [m["id"] for m in api("POST", f"topics/{topic.name}/messages", {"messages": [{"body": b} for b in bodies]}).body["messages"]]
    services.tick()
    return ids


def pull(api, group, name, **fields):
    answer = api("POST", of(group, "/pull"), {"consumer": name, **fields})
    assert answer.status_code == 200, answer.body
    return answer.body


def ack(api, group, batch, status="succeeded"):
    acks = [{"lease": batch["lease"], "id": m["id"], "status": status, "error": "broken"} for m in batch["messages"]]
    return api("POST", of(group, "/acks"), {"acks": acks}).body["acks"]


def refused(response, status, code, pointer=None):
    assert (response.status_code, response.body["code"]) == (status, code), response.body
    assert response.body["detail"]
    assert response.body.get("hint") or response.body.get("errors") or status == 404
    if pointer:
        assert [error["pointer"] for error in response.body["errors"]] == [pointer]
    return response.body


def bodies(batch):
    return [m["body"] for m in batch["messages"]]


def away(group, name, **time):
    """As if it had been seen so long ago."""
    sql("UPDATE mq_instance SET seen_at = seen_at - %s WHERE group_id = %s AND name = %s", timedelta(**time), group.pk, name)
    broadcast.forget_all()


def instances(api, group):
    return {one["name"]: one for one in api("GET", of(group, "/instances")).body["results"]}


@pytest.fixture
def dead(api, topic, group):
    """An instance that has given up two messages, beside one that was content."""
    ids = send(api, topic, "1", "2")
    ack(api, group, pull(api, group, "a/1"), "dead")
    ack(api, group, pull(api, group, "b"))
    return ids


def test_a_broadcast_group_is_applied_for_and_its_node_says_so(api, world, topic):  # noqa: F811
    fields = {"application": "shop", "subscriptions": [{"topic": topic.name}], "mode": "broadcast", "reason": "caches"}
    made = api("POST", "consumer-groups", {"name": "caches", **fields})
    assert made.status_code == 201, made.body
    shown = [made.body[key] for key in ("mode", "instance_ttl_hours", "consume_from")]
    assert shown == ["broadcast", 168, "latest"]  # a new instance of a broadcast group has no past unless somebody wants one
    from consumers.models import ConsumerGroup
    from consumers.services import approve

    approver = type(world.admin).objects.get(username="zhou")
    approve(actor=approver, group=ConsumerGroup.objects.get(name="caches"))
    node = bytes(Publication.objects.get(path="/zms/consumergroup/caches").data)
    wanted = (
        b"clusterName=builtin\ntype=consumergroup\nbindingTopic="
        + topic.name.encode()
        + b"\nbroadcast=true\nconsumeFrom=latest\nsuspend=false\n"
    )
    assert node.startswith(wanted)
    assert [g["name"] for g in api("GET", "consumer-groups?mode=broadcast&name_contains=caches").body["results"]] == ["caches"]
    status = api("GET", "consumer-groups/caches/status").body
    assert (status["mode"], status["instances"]) == ("broadcast", 0)


def test_what_cannot_be_is_refused(api, world, topic):  # noqa: F811
    fields = {"application": "shop", "subscriptions": [{"topic": topic.name}], "reason": "caches"}
    hook = {"mode": "broadcast", "push_url": "https://93.184.216.34/x"}
    refused(api("POST", "consumer-groups", {"name": "hooked", **fields, **hook}), 400, "push_with_broadcast", "/push_url")
    refused(api("POST", "consumer-groups", {"name": "odd", **fields, "mode": "sideways"}), 400, "invalid", "/mode")
    for hours in (0, 721):
        wrong = {"name": "odd", **fields, "mode": "broadcast", "instance_ttl_hours": hours}
        refused(api("POST", "consumer-groups", wrong), 400, "invalid", "/instance_ttl_hours")
    shared, group = world.group(topic), world.group(topic, mode="broadcast")
    for one, mode in ((shared, "broadcast"), (group, "clustering")):
        ask = {"kind": "group.change", "target": one.name, "payload": {"mode": mode}, "reason": "why not"}
        refused(api("POST", "requests", ask), 409, "mode_fixed", "/payload/mode")
    hooked = {"kind": "group.change", "target": group.name, "payload": {"push_url": "https://93.184.216.34/x"}, "reason": "push"}
    refused(api("POST", "requests", hooked), 400, "push_with_broadcast", "/payload/push_url")
    whole = {**fields, "application": "shop", "max_attempts": 3, "backoff_ms": 0, "backoff_max_ms": 0, "change_message": "again"}
    put = api.now("PUT", of(group), {**whole, "mode": "clustering"})
    refused(put, 409, "mode_fixed", "/mode")
    assert api.now("PUT", of(group), {**whole, "instance_ttl_hours": 24}).status_code == 202  # without the mode it stays as it is
    assert Request.objects.get(kind="group.change", target=group.name, state="pending").payload["instance_ttl_hours"] == 24


def test_instances_pull_ack_and_are_shown_each_by_itself(api, topic, group):
    ids = send(api, topic, "1", "2", "3")
    a, b = pull(api, group, "a"), pull(api, group, "b", max=1)
    assert (bodies(a), bodies(b)) == (["1", "2", "3"], ["1"])
    assert {one["status"] for one in ack(api, group, a)} == {"succeeded"}
    done = api(
        "POST", of(group, "/next"), {"consumer": "b", "lease": b["lease"], "acks": [{"id": ids[0], "status": "failed"}], "max": 1}
    ).body
    assert (done["acks"][0]["status"], bodies(done)) == ("later", ["1"])
    longer = api("POST", of(group, f"/leases/{done['lease']}/extension"), {"visibility_ms": 600_000})
    assert (longer.status_code, longer.body["lease"]) == (200, done["lease"])
    told = {one["instance"]: one["status"] for one in api("GET", f"messages/{ids[0]}").body["groups"]}
    assert told == {"a": "succeeded", "b": "processing"}
    events = {(e["instance"], e["event"]) for e in api("GET", f"messages/{ids[0]}/trace").body["results"] if e["group"]}
    assert {("a", "succeeded"), ("b", "failed"), ("b", "pulled")} <= events
    status = api("GET", of(group, "/status")).body
    assert (status["instances"], status["counts"]["succeeded"], status["counts"]["waiting"], status["lag"]["messages"]) == (2, 3, 2, 2)
    first = api("GET", of(group, "/instances?limit=1")).body
    assert [one["name"] for one in first["results"]] == ["a"]
    second = api("GET", first["next"].partition("/api/v1/")[2]).body
    assert ([one["name"] for one in second["results"]], second["next"]) == (["b"], None)
    assert second["results"][0]["positions"][0]["topic"] == topic.name
    assert second["results"][0]["lag"]["messages"] == 2
    assert not second["results"][0]["overdue"]


def test_a_pull_without_a_usable_name_is_refused_and_nothing_begins(api, world, topic, group):  # noqa: F811
    for verb in ("/pull", "/next"):
        refused(api("POST", of(group, verb), {}), 400, "instance_required", "/consumer")
        refused(api("POST", of(group, verb), {"consumer": " "}), 400, "instance_required", "/consumer")
        refused(api("POST", of(group, verb), {"consumer": "a\nb"}), 400, "invalid", "/consumer")
        refused(api("POST", of(group, verb), {"consumer": "x" * 256}), 400, "invalid", "/consumer")
    assert instances(api, group) == {}
    refused(world.api_nobody("POST", of(group, "/pull"), {"consumer": "a"}), 403, "forbidden")
    refused(api("POST", of(group, "/leases/12-345/extension"), {}), 409, "lease_expired")
    wrong = api("POST", of(group, "/acks"), {"acks": [{"lease": "12-", "id": 1, "status": "succeeded"}]})
    refused(wrong, 400, "malformed_lease", "/acks/0/lease")


def test_a_full_group_says_what_to_do(api, group, monkeypatch):
    monkeypatch.setattr(broadcast, "MAX_INSTANCES", 1)
    pull(api, group, "a")
    assert refused(api("POST", of(group, "/pull"), {"consumer": "b"}), 409, "too_many_instances")["limit"] == 1


def test_a_lease_of_another_group_is_nobodys_here(api, world, topic, group):  # noqa: F811
    stranger = world.group(topic, mode="broadcast")
    send(api, topic, "1")
    batch = pull(api, stranger, "a")
    assert [one["problem"]["code"] for one in ack(api, group, batch)] == ["lease_expired"]
    assert [one["status"] for one in ack(api, stranger, batch)] == ["succeeded"]


def test_a_client_without_zookeeper_has_its_position_from_its_registration_on(api, world, topic):  # noqa: F811
    group = world.group(topic, mode="broadcast", consume_from="latest")
    client = {"role": "consumer", "group": group.name}
    refused(api("POST", "clients", client), 400, "instance_required", "/name")
    made = api("POST", "clients", {**client, "name": "pod-1"})
    assert made.status_code == 201, made.body
    send(api, topic, "1")
    pull(api, group, "pod-2")
    away(group, "pod-1", hours=5)
    beat = api("POST", f"clients/{made.body['id']}/heartbeat", {})
    assert beat.status_code == 200
    assert sql("SELECT seen_at > now() - interval '1 minute' FROM mq_instance WHERE group_id = %s AND name = 'pod-1'", group.pk)
    assert api("DELETE", f"clients/{made.body['id']}").status_code == 204
    assert bodies(pull(api, group, "pod-1")) == ["1"]  # it has only said goodbye


def test_a_transaction_takes_the_outcomes_of_an_instance(api, topic, group):
    send(api, topic, "1")
    batch = pull(api, group, "a")
    epoch = api("POST", "applications/shop/epochs", {"producer": "p"}).body["epoch"]
    ask = {
        "application": "shop", "producer": "p", "id": "t1", "epoch": epoch, "sends": [{"topic": topic.name, "messages": [{"body": "2"}]}],
        "acks": [{"group": group.name, "lease": batch["lease"], "acks": [{"id": batch["messages"][0]["id"], "status": "succeeded"}]}],
    }  # fmt: skip
    done = api("POST", "transactions", ask)
    assert done.status_code == 200, done.body
    assert done.body["acks"][0]["acks"][0]["status"] == "succeeded"
    assert api("POST", "transactions", ask).body["duplicate"]
    services.tick()
    assert bodies(pull(api, group, "a")) == ["2"]


def test_dead_letters_are_an_instances_and_every_verb_asks_whose(api, world, topic, group, dead):  # noqa: F811
    shared = world.group(topic)
    for what in ("/dead-letters", "/dead-letters/causes", "/dead-letters/export"):
        refused(api("GET", of(group, what)), 400, "instance_required", "/instance")
        refused(api("GET", of(group, f"{what}?instance=nobody")), 404, "not_found")
        refused(api("GET", of(shared, f"{what}?instance=a/1")), 409, "not_broadcast")
    assert [d["id"] for d in api("GET", of(group, "/dead-letters?instance=a/1")).body["results"]] == dead[::-1]
    assert api("GET", of(group, "/dead-letters?instance=b")).body["results"] == []
    assert api("GET", of(group, "/dead-letters/causes?instance=a/1")).body["results"][0]["messages"] == 2
    assert api("GET", of(group, "/dead-letters/export?instance=a/1")).status_code == 200
    for what, more in (("/redrives", {}), ("/purges", {"reason": "r", "confirm": group.name})):
        refused(api("POST", of(group, what), {"ids": dead, **more}), 400, "instance_required", "/instance")
        refused(api("POST", of(group, what), {"ids": dead, "instance": "nobody", **more}), 404, "not_found")
    refused(api("POST", of(group, f"/dead-letters/{dead[0]}/redrive"), {"body": "x"}), 400, "instance_required", "/instance")
    job = api("POST", of(group, "/redrives"), {"ids": dead[:1], "instance": "a/1", "reason": "mended"})
    assert (job.status_code, job.body["progress"]["done"], job.body["progress"]["failed"]) == (202, 1, 0), job.body
    assert bodies(pull(api, group, "a/1")) == ["1"]
    assert pull(api, group, "b")["reason"] == "empty"
    edited = api("POST", of(group, f"/dead-letters/{dead[1]}/redrive"), {"body": "right", "instance": "a/1"})
    assert edited.status_code == 201, edited.body
    services.tick()
    assert (bodies(pull(api, group, "a/1")), pull(api, group, "b")["reason"]) == (["right"], "empty")
    assert len(api("GET", of(group, "/redrives")).body["results"]) == 2
    assert len(api("GET", of(group, "/redrives?instance=b")).body["results"]) == 0
    kept = AuditEntry.objects.filter(name=group.name, action__in=["redrive", "export"]).order_by("id")
    assert [e.after.get("group", e.after.get("instance")) for e in kept] == ["a/1", f"{group.name} / a/1", "a/1"]


def test_a_purge_is_of_one_instance(api, group, dead):
    done = api("POST", of(group, "/purges"), {"all": True, "instance": "a/1", "reason": "old", "confirm": group.name})
    assert (done.status_code, done.body["progress"]["done"]) == (202, 2), done.body
    assert api("GET", of(group, "/status")).body["counts"] | {"succeeded": 0} == {
        "waiting": 0, "processing": 0, "succeeded": 0, "later": 0, "dead": 0, "failed": 2, "skipped": 0,
    }  # fmt: skip


def test_an_operation_on_an_instance_that_is_given_up_meanwhile_says_so(api, group, dead, monkeypatch):
    monkeypatch.setattr("messages.redrives.AT_ONCE", 0)
    job = api("POST", of(group, "/redrives"), {"ids": dead, "instance": "a/1"}).body
    away(group, "a/1", hours=1)
    assert api("POST", of(group, "/instances/given-up"), {"instance": "a/1", "reason": "gone"}).status_code == 204
    tasks.give_up_instances()
    from core.operations import driving
    from core.operations.models import Operation

    while driving.take_on(Operation.objects.get(uid=job["id"]).pk):
        pass
    left = api("GET", f"operations/{job['id']}").body["progress"]
    assert (left["done"], left["failed"]) == (0, 2)


def test_a_rewind_over_rest_moves_all_instances_and_is_undone(api, topic, group):
    send(api, topic, "1", "2")
    ack(api, group, pull(api, group, "a"))
    ack(api, group, pull(api, group, "b", max=1))
    seen = api("GET", of(group, f"/resets/preview?topic={topic.name}&to=earliest")).body
    assert (seen["kind"], seen["repeated"]) == ("rewind", 3)
    wanted = {"topic": topic.name, "position": seen["position"], "fingerprint": seen["fingerprint"], "reason": "again"}
    made = api("POST", of(group, "/resets"), wanted)
    assert (made.status_code, made.body["repeated"], made.body["undoable"]) == (201, 3, True), made.body
    refused(api("POST", of(group, "/resets"), wanted), 409, "stale_preview")
    assert bodies(pull(api, group, "b")) == ["1", "2"]
    undone = api("POST", of(group, f"/resets/{made.body['id']}/undo"), {})
    assert (undone.status_code, undone.body["restored"]) == (200, 2), undone.body


def test_an_instance_is_given_up_by_hand_and_by_its_time(api, world, topic, group):  # noqa: F811
    send(api, topic, "1")
    pull(api, group, "a"), pull(api, group, "b"), pull(api, group, "c")
    given_up = of(group, "/instances/given-up")
    refused(api("POST", given_up, {"instance": "a", "reason": "gone"}), 409, "instance_online")
    refused(api("POST", given_up, {"instance": "nobody", "reason": "gone"}), 404, "not_found")
    refused(api("POST", given_up, {"instance": "a"}), 400, "invalid", "/reason")
    shared = world.group(topic)
    refused(api("POST", of(shared, "/instances/given-up"), {"instance": "a", "reason": "gone"}), 409, "not_broadcast")
    assert instances(api, shared) == {}
    assert world.api_viewer("GET", of(group, "/instances")).status_code == 200
    refused(world.api_viewer("POST", given_up, {"instance": "a", "reason": "gone"}), 403, "forbidden")
    away(group, "a", hours=1)
    assert api("POST", given_up, {"instance": "a", "reason": "gone for good"}).status_code == 204
    away(group, "b", hours=169)
    away(group, "c", hours=167)
    assert tasks.give_up_instances() == 1
    assert tasks.give_up_instances() == 0
    assert list(instances(api, group)) == ["c"]
    kept = AuditEntry.objects.filter(name=group.name, action="give up").order_by("id")
    assert [(e.actor_name, e.before["instance"], e.before["processing"], e.reason) for e in kept] == [
        ("wang", "a", 1, "gone for good"),
        (kept[1].actor_name, "b", 1, "not seen for its time to live"),
    ]
    assert kept[1].actor_id is None
    assert sql("SELECT count(*) FROM mq_instance WHERE group_id = %s AND gone_at IS NOT NULL", group.pk) == 0  # its rows are gone, too


def test_one_that_comes_back_at_the_last_moment_is_not_given_up(api, group, monkeypatch):
    pull(api, group, "a")
    away(group, "a", hours=200)
    find = broadcast.find

    def late(**asked):
        found = find(**asked)
        pull(api, group, "a")  # between the look and the deed
        return found

    monkeypatch.setattr(broadcast, "find", late)
    assert tasks.give_up_instances() == 0
    assert list(instances(api, group)) == ["a"]


def test_the_console_shows_instances_their_dead_letters_and_gives_up(api, world, topic, group, dead):  # noqa: F811
    browser = world.browser(world.admin)

    def page(name, *args, **query):
        response = browser.get(reverse(f"admin:{name}", args=args), query)
        assert response.status_code == 200, response
        return response.content.decode()

    def has(text, *parts):
        for part in parts:
            assert part in text, part

    has(
        page("consumers_detail", group.name),
        "Instances with a position of their own",
        "a/1",
        "instance=a%2F1",
        "It is there now.",
        "broadcast",
    )
    has(page("consumers_list"), group.name)
    has(page("messages_dead"), group.name)
    has(page("messages_dead", group=group.name), "a/1", "redriven to it alone")
    listed = page("messages_dead", group=group.name, instance="a/1")
    has(listed, str(dead[0]), 'name="instance" value="a/1"', "/edit/?instance=a/1")
    has(page("messages_edit", group.name, dead[0], instance="a/1"), "a/1")
    has(page("messages_detail", dead[0]), "a/1", f"{group.name} / a/1: dead after 1 failed tries", "broken")
    has(page("messages_list", topic=topic.name), str(dead[0]))
    has(page("messages_position", group.name), "position of that of its 2 instances that is furthest behind")
    has(page("messages_position", group.name, topic=topic.name, to="earliest"), "Preview: rewind")
    assert browser.get(reverse("admin:messages_dead"), {"group": group.name, "instance": "nobody"}).status_code == 404
    one = {"group": group.name, "instance": "a/1", "one": str(dead[0]), "why": "mended"}
    assert browser.post(reverse("admin:messages_dead"), one).status_code == 302
    assert bodies(pull(api, group, "a/1")) == ["1"]
    export = browser.get(reverse("admin:messages_dead_export"), {"group": group.name, "instance": "a/1"})
    assert str(dead[1]) in b"".join(export.streaming_content).decode()
    leave = reverse("admin:messages_give_up", args=[group.name]) + "?instance=b"
    has(browser.get(leave).content.decode(), "it begins anew, as a new instance does")
    has(browser.post(leave, {"reason": "gone"}).content.decode(), "it would begin anew at once")
    away(group, "b", hours=2)
    assert browser.post(leave, {"reason": "gone"}).status_code == 302
    assert list(instances(api, group)) == ["a/1"]
    assert browser.get(leave).status_code == 404
    for given in ({"reason": "gone"}, {}):
        response = browser.post(leave, given)
        assert response.status_code < 500, response
    shared = reverse("admin:messages_give_up", args=[world.group(topic).name])
    has(browser.post(shared, {"reason": "gone"}).content.decode(), "its instances have no positions of their own")
    assert browser.get(shared).status_code == 409


def test_a_list_of_messages_asks_of_a_crowd_of_instances_nothing(api, topic, group, monkeypatch):
    monkeypatch.setattr("messages.reading.INSTANCES", 2)
    ids = send(api, topic, "1")
    pull(api, group, "a"), pull(api, group, "b")
    names, pairs = services_of(topic, ids)
    assert (names, pairs) == ([group.name], {ids[0]: [(group.name, "processing")]})
    ack(api, group, pull(api, group, "c"))
    assert services_of(topic, ids) == ([], {ids[0]: []})


def services_of(topic, ids):
    from messages import reading

    return reading.statuses_of(topic_id=topic.pk, message_ids=ids, visible=set)


def test_a_group_is_applied_for_and_changed_in_the_console(world, topic):  # noqa: F811
    browser = world.browser(world.admin)
    from accounts.models import Application

    form = {
        "name": "console_caches", "application": Application.objects.get(name="shop").pk, "owner": world.admin.pk, "mode": "broadcast",
        "instance_ttl_hours": "48", "consume_from": "latest", "max_attempts": "3", "backoff_ms": "1000", "backoff_max_ms": "2000",
        "push_concurrency": "4", "push_timeout_ms": "1000", "reason": "caches", "subscriptions-TOTAL_FORMS": "1",
        "subscriptions-INITIAL_FORMS": "0", "subscriptions-0-topic": topic.name, "subscriptions-0-tags": "*",
    }  # fmt: skip
    wrong = browser.post(reverse("admin:consumers_apply"), {**form, "push_url": "https://93.184.216.34/x"})
    assert "a broadcast group has instances that pull" in wrong.content.decode()
    assert browser.post(reverse("admin:consumers_apply"), form).status_code == 302
    shown = browser.get(reverse("admin:consumers_detail", args=["console_caches"])).content.decode()
    assert "Broadcast: every instance gets every message" in shown
    assert "48 h" in shown
    group = world.group(topic, mode="broadcast")
    asked = browser.get(reverse("admin:consumers_ask_change", args=[group.name])).content.decode()
    assert 'name="instance_ttl_hours"' in asked
    assert 'name="mode"' not in asked
