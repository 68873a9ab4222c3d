"""Sticky groups as people have them: asked for, pulled over REST, workers shown over REST and in the console, switched by a change."""

import uuid

import pytest
from django.db import transaction
from messages_world import world  # noqa: F401 - fixture
from store_world import Threads, counts, sql, until

from consumers import services as consumers
from messages import services
from messages.api import lookup
from registry.releases import Change

pytestmark = pytest.mark.usefixtures("_committed")
KEYS = [f"k{i}" for i in range(30)]


@pytest.fixture
def _committed(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        yield


def made(world, **fields):  # noqa: F811
    topic = world.topic()
    return topic, world.group(topic, balance="sticky", **fields)


def send(world, topic, keys=KEYS):  # noqa: F811
    answer = world.api("POST", f"topics/{topic.name}/messages", {"messages": [{"body": k, "sharding_key": k} for k in keys]})
    assert answer.status_code == 201, answer.body
    services.tick()


def pull(world, group, name, **fields):  # noqa: F811
    return world.api("POST", f"consumer-groups/{group.name}/pull", {"consumer": name, "max": 100, **fields})


def test_workers_pull_what_is_their_own_and_are_listed(world):  # noqa: F811
    topic, group = made(world)
    assert world.api("GET", f"consumer-groups/{group.name}").body["balance"] == "sticky"
    address = f"consumer-groups/{group.name}/workers"
    assert world.api("GET", address).body == {"results": [], "next": None}
    for name in ("one", "two", "three"):
        assert pull(world, group, name).body["reason"] == "empty"
    send(world, topic)
    batch = pull(world, group, "two").body
    got = {m["body"] for m in batch["messages"]}
    assert 0 < len(got) < 30
    listed = world.api("GET", address).body["results"]
    assert [(w["name"], w["slots"], round(w["share"], 2)) for w in listed] == [("one", 86, 0.34), ("three", 85, 0.33), ("two", 85, 0.33)]
    two = listed[2]
    assert (two["processing"], two["parked"], two["awaited"]) == (len(got), 0, 0)
    assert sum(w["parked"] for w in listed) + counts(group.pk)["processing"] <= 30
    page = world.api("GET", f"{address}?limit=2").body
    assert [w["name"] for w in page["results"]] == ["one", "three"]
    following = world.api("GET", page["next"].split("/api/v1/")[1]).body
    assert ([w["name"] for w in following["results"]], following["next"]) == (["two"], None)


def test_who_does_not_say_who_asks_gets_nothing(world):  # noqa: F811
    topic, group = made(world)
    send(world, topic, ["a"])
    for verb in ("pull", "next"):
        for fields in ({}, {"consumer": ""}):
            answer = world.api("POST", f"consumer-groups/{group.name}/{verb}", fields)
            assert (answer.status_code, answer.body["code"], answer.body["errors"][0]["pointer"]) == (400, "consumer_required", "/consumer")
    assert services.workers(group_id=group.pk).items == []


def test_a_worker_says_goodbye_and_its_keys_are_the_others(world):  # noqa: F811
    topic, group = made(world)
    for name in ("one", "two"):
        assert pull(world, group, name).body["sticky"] is True
    address = f"consumer-groups/{group.name}/departures"
    assert world.api("POST", address, {"consumer": "two"}).body == {"left": True}
    assert world.api("POST", address, {"consumer": "two"}).body == {"left": False}
    assert [(w["name"], w["slots"]) for w in world.api("GET", f"consumer-groups/{group.name}/workers").body["results"]] == [("one", 256)]
    for fields, code in (
        ({}, "consumer_required"),
        ({"consumer": ""}, "consumer_required"),
        ({"consumer": "one", "x": 1}, "unknown_field"),
    ):
        answer = world.api("POST", address, fields)
        assert (answer.status_code, answer.body["code"]) == (400, code)
    assert world.api("POST", "consumer-groups/nobodys/departures", {"consumer": "one"}).status_code == 404
    shared = world.group(topic)
    assert pull(world, shared, "one").body["sticky"] is False
    assert world.api("POST", f"consumer-groups/{shared.name}/departures", {"consumer": "one"}).body == {"left": False}


def test_too_many_workers_is_a_problem_and_no_error(world):  # noqa: F811
    topic, group = made(world)
    pull(world, group, "w0")
    send(world, topic, ["a"])
    held = pull(world, group, "w0").body
    sql(
        "INSERT INTO mq_worker (worker_id, group_id, name) SELECT nextval('mq_worker_seq'), %s, 'w' || n FROM generate_series(1, 999) n",
        group.pk,
    )
    answer = pull(world, group, "one more")
    assert (answer.status_code, answer.body["code"], answer.body["limit"]) == (409, "too_many_workers", 1000)
    acks = [{"id": held["messages"][0]["id"], "status": "succeeded"}]
    answer = world.api("POST", f"consumer-groups/{group.name}/next", {"consumer": "one more", "lease": held["lease"], "acks": acks})
    assert (answer.status_code, answer.body["reason"], answer["Retry-After"]) == (200, "too_many_workers", "2")
    assert answer.body["acks"][0]["status"] == "succeeded"  # that is committed


def test_a_client_that_leaves_gives_its_keys_to_the_others(world):  # noqa: F811
    _topic, group = made(world)
    clients = {}
    for name, number in (("one", 1), ("two", 1), ("two", 2)):
        fields = {"id": str(uuid.uuid4()), "role": "consumer", "group": group.name, "name": name}
        assert world.api("POST", "clients", fields).status_code == 201
        clients[name, number] = fields["id"]
        pull(world, group, name)

    def shares():
        return {w.name: w.slots for w in services.workers(group_id=group.pk).items}

    assert shares() == {"one": 128, "two": 128}
    assert world.api("DELETE", f"clients/{clients['two', 1]}").status_code == 204
    assert shares() == {"one": 128, "two": 128}  # another process goes by that name
    assert world.api("DELETE", f"clients/{clients['two', 2]}").status_code == 204
    assert shares() == {"one": 256}
    assert world.api("DELETE", f"clients/{clients['two', 2]}").status_code == 204


def test_a_waiting_worker_gets_its_message_as_it_comes(world):  # noqa: F811
    topic, group = made(world)
    for name in ("one", "two"):
        pull(world, group, name)
    key = next(k for k in KEYS if sql(OWNER, group.pk, k) == "two")
    threads, found = Threads(), []
    threads.start(lambda: found.append(pull(world, group, "two", wait_ms=30_000).body))
    until(lambda: sql("SELECT count(*) FROM mq_worker WHERE group_id = %s", group.pk) == 2, 30)
    send(world, topic, [key])
    threads.join(60)
    assert [m["body"] for m in found[0]["messages"]] == [key]


OWNER = "SELECT name FROM mq_worker WHERE group_id = %s AND mq_slot(mq_wkey(0::smallint, 0, %s)) = ANY (slots)"


def test_when_no_more_may_be_parked_the_answer_says_so(world):  # noqa: F811
    topic, group = made(world)
    for name in ("one", "two"):
        pull(world, group, name)
    mine, yours = (next(k for k in KEYS if sql(OWNER, group.pk, k) == name) for name in ("one", "two"))
    send(world, topic, [yours, mine])
    sql("UPDATE mq_cursor SET held = 10000 WHERE group_id = %s", group.pk)  # as if so many were parked
    answer = pull(world, group, "one")
    assert (answer.status_code, answer.body["reason"], answer["Retry-After"]) == (200, "parked", "2")
    sql("UPDATE mq_cursor SET held = 0 WHERE group_id = %s", group.pk)
    assert [m["body"] for m in pull(world, group, "one").body["messages"]] == [mine]


def test_a_change_of_the_group_switches_it_while_it_runs(world):  # noqa: F811
    topic, group = made(world)
    for name in ("one", "two"):
        pull(world, group, name)
    send(world, topic)
    first = pull(world, group, "one").body
    with transaction.atomic():
        consumers.alter(group=group, values={"balance": "shared"}, wanted=None, change=Change(author=None, message="x"))
    lookup._groups.clear()
    rest = world.api("POST", f"consumer-groups/{group.name}/pull", {"max": 100}).body
    assert len(first["messages"]) + len(rest["messages"]) == 30
    assert world.api("GET", f"consumer-groups/{group.name}/workers").body["results"] == []


@pytest.mark.parametrize("fields", [{"mode": "broadcast"}, {"push_url": "https://example.com/hook"}])
def test_instances_of_their_own_and_a_webhook_have_nothing_to_share(world, fields, monkeypatch):  # noqa: F811
    monkeypatch.setattr("consumers.push.look_up", lambda _payload: None)
    topic = world.topic()
    ask = {"name": "odd_group", "application": "shop", "subscriptions": [{"topic": topic.name}], "reason": "x", "balance": "sticky"}
    answer = world.api("POST", "consumer-groups", {**ask, **fields})
    assert (answer.status_code, answer.body["code"], answer.body["errors"][0]["pointer"]) == (400, "sticky_without_workers", "/balance")
    answer = world.api("POST", "consumer-groups", {**ask, "balance": "odd"})
    assert (answer.status_code, answer.body["errors"][0]["pointer"]) == (400, "/balance")


def test_the_console_shows_workers_where_a_group_and_its_instances_are(world):  # noqa: F811
    topic, group = made(world)
    browser = world.browser(world.admin)
    page = f"/admin/groups/{group.name}/"
    assert "None is there" in browser.get(page).content.decode()
    for name in ("one", "two"):
        pull(world, group, name)
    send(world, topic)
    batch = pull(world, group, "two").body
    for address in (page, f"{page}instances/"):
        shown = browser.get(address).content.decode()
        assert "50.0 %" in shown
        assert f'<td class="num">{len(batch["messages"])}</td>' in shown
    assert "Sticky: a sharding key stays with its worker" in browser.get(page).content.decode()
    shared = world.group(topic)
    assert "share of the sharding keys" not in browser.get(f"/admin/groups/{shared.name}/").content.decode()


def test_who_may_not_see_the_group_sees_no_workers(world):  # noqa: F811
    _topic, group = made(world)
    address = f"consumer-groups/{group.name}/workers"
    assert world.api_viewer("GET", address).status_code == 200
    assert world.api_nobody("GET", address).status_code in {403, 404}
    assert world.api_anonymous("GET", address).status_code == 401
