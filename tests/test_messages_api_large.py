"""Bodies of 1 MiB over REST, through every door: the largest is taken whole, one byte more is refused and leaves nothing."""

import base64
import os
import threading

import pytest
from conftest import Api
from django.conf import settings
from django.db import connection
from django.test import Client
from messages_world import world  # noqa: F401 - a fixture

from tests.store_world import counts, pull, settle, sql, until

pytestmark = pytest.mark.usefixtures("_committed")
MIB = settings.MAX_MESSAGE_BYTES
LARGE = "é" * (MIB // 2)


@pytest.fixture(autouse=True)
def _committed(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def pair(world):  # noqa: F811
    topic = world.topic()
    return topic, world.group(topic)


def binary(n):
    return base64.b64encode(os.urandom(n)).decode()


def refused(response, status, code):
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (response.status_code, response.body["code"]) == (status, code), response.body
    assert response.body["hint"]
    return response.body


def stored():
    """Everything that a send may leave behind."""
    return sql(
        "SELECT array[(SELECT count(*) FROM mq_message), (SELECT count(*) FROM mq_delayed), (SELECT count(*) FROM mq_half),"
        " (SELECT count(*) FROM mq_producer_id), (SELECT count(*) FROM mq_claim), (SELECT count(*) FROM mq_transaction)]"
    )


def taken(world, group, verb="pull", **asked):  # noqa: F811
    """What comes next, once something comes."""
    return until(lambda: (got := world.api("POST", f"consumer-groups/{group.name}/{verb}", asked).body)["messages"] and got, 30)


def test_the_largest_go_in_and_come_out_unchanged(world, pair):  # noqa: F811
    topic, group = pair
    bodies = [{"body": LARGE}, {"body_base64": binary(MIB)}, {"body": "\x00" * MIB}, {"body": ""}]
    sent = world.api("POST", f"topics/{topic.name}/messages", {"messages": bodies})
    assert sent.status_code == 201, sent.body
    got = taken(world, group)
    assert [{name: m[name] for name in ("body", "body_base64") if m.get(name) is not None} for m in got["messages"]] == bodies
    one = world.api("GET", f"messages/{got['messages'][1]['id']}").body
    assert one["body_base64"] == bodies[1]["body_base64"]
    acks = [{"id": m["id"], "status": "succeeded"} for m in got["messages"]]
    assert world.api("POST", f"consumer-groups/{group.name}/next", {"lease": got["lease"], "acks": acks}).body["messages"] == []
    assert counts(group.pk) == {"succeeded": 4}


@pytest.mark.parametrize("large", [{"body": LARGE + "x"}, {"body_base64": binary(MIB + 1)}], ids=["text", "binary"])
def test_one_byte_more_is_refused_at_every_door_and_nothing_is_done(world, pair, large):  # noqa: F811
    topic, group = pair
    opened = world.api("POST", "applications/shop/epochs", {"producer": "large"}).body
    before = stored()
    good = {"body": "good", "id": f"good-{topic.pk}"}
    sends = [{"topic": topic.name, "messages": [good, large]}]
    transaction = {"application": "shop", "producer": "large", "epoch": opened["epoch"], "id": f"t-{topic.pk}", "sends": sends, "acks": []}
    for path, body in (
        (f"topics/{topic.name}/messages", large),
        (f"topics/{topic.name}/messages", {"messages": [good, large]}),
        (f"topics/{topic.name}/messages", {"messages": [good, {**large, "delay_ms": 60_000}]}),
        (f"topics/{topic.name}/half-messages", {**large, "id": f"half-{topic.pk}"}),
        ("transactions", transaction),
    ):
        problem = refused(world.api("POST", path, body), 413, "body_too_large")
        assert str(MIB + 1) in problem["detail"].replace(",", ""), path
        assert problem["errors"][0]["pointer"].endswith("/body"), path
    assert stored() == before
    sent = world.api("POST", f"topics/{topic.name}/messages", {"messages": [good, {"body": LARGE}]})
    assert [m["duplicate"] for m in sent.body["messages"]] == [False, False]  # its id had not been taken
    assert len(taken(world, group)["messages"]) == 2


def test_a_batch_is_bounded_in_bytes(world, pair):  # noqa: F811
    topic, group = pair
    fifteen, most = [{"body": "x" * MIB}] * 15, settings.MAX_BATCH_BYTES
    before = stored()
    refused(world.api("POST", f"topics/{topic.name}/messages", {"messages": [*fifteen, {"body": "x" * MIB}]}), 413, "too_large")
    assert stored() == before
    assert most == 16 * MIB
    assert len(world.api("POST", f"topics/{topic.name}/messages", {"messages": fifteen}).body["messages"]) == 15
    assert sum(len(m["body"]) for m in taken(world, group, max=100)["messages"]) == 15 * MIB


def test_pulls_and_retries_are_bounded_in_bytes(world, pair):  # noqa: F811
    topic, group = pair
    for n in (15, 15, 5):
        assert world.api("POST", f"topics/{topic.name}/messages", {"messages": [{"body": "x" * MIB}] * n}).status_code == 201
    first = taken(world, group, max=1000)
    assert len(first["messages"]) == 32
    acks = [{"id": m["id"], "status": "failed"} for m in first["messages"]]  # due again at once
    again = world.api("POST", f"consumer-groups/{group.name}/next", {"max": 1000, "lease": first["lease"], "acks": acks}).body
    assert {m["attempt"] for m in again["messages"]} == {2}
    assert len(again["messages"]) == 32
    rest = pull(group.pk, limit=1000)
    assert len(rest.messages) == 3
    settle(group.pk, rest)
    assert counts(group.pk) == {"processing": 32, "succeeded": 3}


def test_single_sends_of_large_bodies_at_once_share_commits_and_each_gets_its_own_answer(world, pair):  # noqa: F811
    topic, group = pair
    answers, start = {}, threading.Barrier(8)

    def producer(number):
        api = Api(Client(), world.secret)
        start.wait()
        body = chr(ord("a") + number) * (MIB + (number == 7))
        answers[number] = api("POST", f"topics/{topic.name}/messages", {"body": body})
        connection.close()

    threads = [threading.Thread(target=producer, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    refused(answers.pop(7), 413, "body_too_large")
    ids = {answer.body["messages"][0]["id"]: chr(ord("a") + number) for number, answer in answers.items()}
    got = {}
    while len(got) < 7:
        got |= {m["id"]: m["body"] for m in taken(world, group)["messages"]}
    assert {i: body[0] for i, body in got.items()} == ids
    assert {len(body) for body in got.values()} == {MIB}
