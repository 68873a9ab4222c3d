"""Transactions over REST: one commit for sends and acks, the same again, zombies, what is refused, and who may."""

import pytest
from messages_world import world  # noqa: F401 - a fixture

from tests.store_world import bodies, counts, pull, send, until

pytestmark = pytest.mark.usefixtures("_committed")


@pytest.fixture
def _committed(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def begun(world):  # noqa: F811
    """A pulled message, two topics to write to, and an open epoch."""
    source, first, second = world.topic(), world.topic(), world.topic()
    group, reader = world.group(source), world.group(first, second)
    send(source.pk, "in")
    batch = until(lambda: (found := world.api("POST", f"consumer-groups/{group.name}/pull", {}).body)["lease"] and found, 30)
    producer = f"orders-{source.pk}"
    opened = world.api("POST", "applications/shop/epochs", {"producer": producer})
    assert opened.status_code == 201
    assert opened.body == {"application": "shop", "producer": producer, "epoch": opened.body["epoch"]}
    acks = [{"group": group.name, "lease": batch["lease"], "acks": [{"id": m["id"], "status": "succeeded"} for m in batch["messages"]]}]
    sends = [{"topic": t.name, "messages": [{"body": "out", "key": "k"}]} for t in (first, second)]
    body = {"application": "shop", "producer": producer, "epoch": opened.body["epoch"], "id": "t1", "sends": sends, "acks": acks}
    return body, group, reader


def refusal(response, status, code, pointer=None):
    assert (response.status_code, response.body["code"]) == (status, code), response.content
    if pointer:
        assert response.body["errors"][0]["pointer"] == pointer, response.body


def test_sends_and_acks_in_one_commit_and_the_same_again(world, begun):  # noqa: F811
    body, group, reader = begun
    done = world.api("POST", "transactions", body)
    assert done.status_code == 200, done.content
    assert (done.body["id"], done.body["duplicate"]) == ("t1", False)
    assert [part["topic"] for part in done.body["sends"]] == [part["topic"] for part in body["sends"]]
    assert {m["state"] for part in done.body["sends"] for m in part["messages"]} == {"accepted"}
    assert done.body["acks"][0]["group"] == group.name
    assert [a["status"] for a in done.body["acks"][0]["acks"]] == ["succeeded"]
    assert counts(group.pk) == {"succeeded": 1}
    again = world.api("POST", "transactions", body)
    assert again.body == {**done.body, "duplicate": True}
    assert bodies(pull(reader.pk)) == ["out", "out"]
    refusal(world.api("POST", "transactions", {**body, "acks": []}), 409, "transaction_id_reused")


def test_a_zombie_and_a_stale_lease_are_refused(world, begun):  # noqa: F811
    body, group, reader = begun
    newer = world.api("POST", "applications/shop/epochs", {"producer": body["producer"]}).body["epoch"]
    fenced = world.api("POST", "transactions", body)
    refusal(fenced, 409, "producer_fenced")
    assert fenced.body["epoch"] == newer
    stale = {**body, "epoch": newer, "acks": [{**body["acks"][0], "lease": "1"}]}
    refused = world.api("POST", "transactions", stale)
    refusal(refused, 409, "ack_refused", "/acks/0/acks/0")
    assert refused.body["acks"][0]["code"] == "lease_expired"
    refusal(world.api("POST", "transactions", {**body, "producer": "nobody"}), 409, "unknown_producer")
    assert counts(group.pk) == {"processing": 1}
    assert pull(reader.pk).reason == "empty"
    assert world.api("POST", "transactions", {**body, "epoch": newer}).status_code == 200


def test_bad_input(world, begun):  # noqa: F811
    body, _group, _reader = begun
    for change, code, pointer in (
        ({"sends": [], "acks": []}, "empty_transaction", None),
        ({"epoch": "7"}, "invalid", "/epoch"),
        ({"epoch": 0}, "invalid", "/epoch"),
        ({"id": None}, "invalid", "/id"),
        ({"id": ""}, "invalid_text", "/id"),
        ({"extra": 1}, "unknown_field", "/extra"),
        ({"sends": [1]}, "invalid", "/sends/0"),
        ({"sends": [{"messages": []}]}, "invalid", "/sends/0/topic"),
        ({"sends": [{**body["sends"][0], "messages": [{"body": "x", "tag": "a b"}]}]}, "invalid_tag", "/sends/0/messages/0/tag"),
        ({"sends": [{**body["sends"][0], "messages": [7]}]}, "invalid", "/sends/0/messages/0"),
        ({"acks": [{**body["acks"][0], "lease": "x"}]}, "malformed_lease", "/acks/0/lease"),
        ({"acks": [{**body["acks"][0], "acks": [{"id": 1, "status": "done"}]}]}, "invalid_outcome", "/acks/0/acks/0/status"),
        ({"acks": ["x"]}, "invalid", "/acks/0"),
    ):
        refusal(world.api("POST", "transactions", {**body, **change}), 400, code, pointer)
    refusal(world.api("POST", "transactions", {**body, "application": "unknown"}), 404, "not_found")
    refusal(world.api("POST", "transactions", {**body, "sends": [{"topic": "unknown", "messages": []}]}), 404, "not_found")
    refusal(world.api("POST", "applications/unknown/epochs", {"producer": "p"}), 404, "not_found")
    refusal(world.api("POST", "applications/shop/epochs", {}), 400, "invalid", "/producer")
    refusal(world.api_nobody("POST", "transactions", body), 403, "forbidden")
    assert world.api("POST", "transactions", body).body["duplicate"] is False
