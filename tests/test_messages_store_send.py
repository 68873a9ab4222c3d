"""Send: ids come back, a producer's own id makes a retry harmless, bad input changes nothing."""

from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from django.db import transaction

from core.errors import Problem
from messages import services
from messages.types import NewMessage
from tests.store_world import Threads, bodies, new_group, new_id, pull, send, sql

pytestmark = pytest.mark.usefixtures("store")


def test_it_returns_the_ids_in_order_and_delivers_what_was_sent():
    topic = new_id()
    group = new_group(topic)
    m = NewMessage(b"\x00\xff body", key="k", tag="paid", sharding_key="s", headers={"trace": "1", "名": "值"})
    (accepted,) = services.send(topic_id=topic, messages=[m])
    ids = send(topic, *(str(i) for i in range(100)))
    assert ids == sorted(ids)
    assert accepted.id < ids[0]
    assert (accepted.state, accepted.duplicate) == ("accepted", False)
    batch = pull(group, limit=200)
    assert [d.id for d in batch.messages] == [accepted.id, *ids]
    first = batch.messages[0]
    assert (first.body, first.key, first.tag, first.sharding_key, first.headers) == (m.body, "k", "paid", "s", m.headers)
    assert first.attempt == 1


@pytest.mark.parametrize("n", [1, 2, 19, 20, 1000])
def test_every_batch_size_comes_through(n):
    topic = new_id()
    group = new_group(topic)
    send(topic, *(str(i) for i in range(n)))
    assert bodies(pull(group, limit=1000)) == [str(i) for i in range(n)]


@pytest.mark.parametrize("n", [1, 5, 50])
def test_fault_10_a_retry_with_the_producers_id_returns_the_first_result(n):
    topic = new_id()
    group = new_group(topic)
    batch = [NewMessage(b"x", producer_id=f"p{i}") for i in range(n)]
    first = services.send(topic_id=topic, messages=batch)
    again = services.send(topic_id=topic, messages=batch)
    assert [a.id for a in again] == [a.id for a in first]
    assert all(a.duplicate for a in again)
    assert not any(a.duplicate for a in first)
    assert len(pull(group).messages) == n


def test_a_batch_may_mix_new_repeated_anonymous_and_delayed_messages():
    topic = new_id()
    group = new_group(topic)
    (known,) = services.send(topic_id=topic, messages=[NewMessage(b"known", producer_id="known")])
    due = datetime.now(UTC) + timedelta(hours=1)
    batch = [
        NewMessage(b"a", producer_id="a"),
        NewMessage(b"known", producer_id="known"),
        NewMessage(b"plain"),
        NewMessage(b"later", producer_id="later", deliver_at=due),
        NewMessage(b"a", producer_id="a"),
    ]
    a, known2, plain, later, a2 = services.send(topic_id=topic, messages=batch)
    assert (known2.id, known2.duplicate) == (known.id, True)
    assert (a2.id, a2.duplicate, a.duplicate) == (a.id, True, False)
    assert (later.state, later.deliver_at) == ("delayed", due)
    assert bodies(pull(group)) == ["known", "a", "plain"]
    again = services.send(topic_id=topic, messages=batch)
    assert [x.id for x in again[:2]] == [a.id, known.id]
    assert (again[3].id, again[3].state, again[3].duplicate) == (later.id, "delayed", True)
    assert plain.id != again[2].id


def test_the_same_producers_id_on_two_topics_are_two_messages():
    one, other = new_id(), new_id()
    m = NewMessage(b"x", producer_id="p")
    (a,), (b,) = services.send(topic_id=one, messages=[m]), services.send(topic_id=other, messages=[m])
    assert a.id != b.id
    assert not b.duplicate


def test_fault_10_two_producers_that_retry_the_same_batch_in_opposite_order_do_not_deadlock():
    topic = new_id()
    group = new_group(topic)
    results = []

    def producer(order):
        for turn in range(15):
            batch = [NewMessage(b"x", producer_id=f"{turn}:{i}") for i in range(50)][::order]
            results.append({m.producer_id: a.id for m, a in zip(batch, services.send(topic_id=topic, messages=batch), strict=True)})

    threads = Threads()
    for order in (1, -1, 1):
        threads.start(producer, order)
    threads.join()
    merged = {}
    for result in results:
        for producer_id, message_id in result.items():
            assert merged.setdefault(producer_id, message_id) == message_id
    assert len(pull(group, limit=1000).messages) == 15 * 50


def test_a_rolled_back_send_leaves_nothing_not_even_its_claim():
    topic = new_id()
    group = new_group(topic)
    m = [NewMessage(b"x", producer_id="p")]
    with pytest.raises(RuntimeError), transaction.atomic():  # noqa: PT012
        services.send(topic_id=topic, messages=m)
        raise RuntimeError
    assert pull(group).messages == []
    assert services.send(topic_id=topic, messages=m)[0].duplicate is False


def test_old_claims_are_forgotten_after_their_time_to_live():
    topic = new_id()
    m = [NewMessage(b"x", producer_id=f"p{i}") for i in range(3)]
    services.send(topic_id=topic, messages=m)
    sql("SELECT mq_purge_claims('1 day')")
    assert services.send(topic_id=topic, messages=m)[0].duplicate is True
    sql("SELECT mq_purge_claims('0 s', 1000000)")
    assert services.send(topic_id=topic, messages=m)[0].duplicate is False


BAD = [
    ([], "empty_batch"),
    ([NewMessage(b"")] * 1001, "batch_too_large"),
    ([NewMessage(b"x" * (settings.MAX_MESSAGE_BYTES + 1))], "body_too_large"),
    ([NewMessage(b"", tag="b || a")], "invalid_tag"),  # not in their order: the way in sees to it
    ([NewMessage(b"", tag="a || ")], "invalid_tag"),
    ([NewMessage(b"", tag=" || ".join("abcdefghi"))], "invalid_tag"),
    ([NewMessage(b"", tag="*")], "invalid_tag"),
    ([NewMessage(b"", key="")], "invalid_text"),
    ([NewMessage(b"", key="x" * 256)], "invalid_text"),
    ([NewMessage(b"", key="nul\x00")], "invalid_text"),
    ([NewMessage(b"", producer_id="\ud800")], "invalid_text"),
    ([NewMessage(b"", headers={"a": 1})], "invalid_headers"),
    ([NewMessage(b"", headers={"a": "x" * 40_000})], "invalid_headers"),
    ([NewMessage(b"", deliver_at=datetime.now(UTC) - timedelta(minutes=5))], "delay_out_of_range"),
    ([NewMessage(b"", deliver_at=datetime.now(UTC) + timedelta(days=3660))], "delay_out_of_range"),
    ([NewMessage(b"", deliver_at=datetime(2030, 1, 1))], "delay_out_of_range"),
]


@pytest.mark.parametrize(("messages", "code"), BAD, ids=[f"{code}-{i}" for i, (_m, code) in enumerate(BAD)])
def test_it_refuses_bad_messages_and_stores_none_of_the_batch(messages, code):
    topic = new_id()
    group = new_group(topic)
    with pytest.raises(Problem) as refused:
        services.send(topic_id=topic, messages=[NewMessage(b"good"), *messages] if messages and len(messages) < 1000 else messages)
    assert refused.value.code == code
    assert pull(group).messages == []


def test_a_body_of_exactly_the_limit_is_delivered():
    topic = new_id()
    group = new_group(topic)
    body = bytes(range(256)) * (settings.MAX_MESSAGE_BYTES // 256)
    services.send(topic_id=topic, messages=[NewMessage(body), NewMessage(body)])
    assert [m.body for m in pull(group).messages] == [body, body]


def test_one_pull_hands_out_a_bounded_number_of_bytes():
    topic = new_id()
    group = new_group(topic)
    body = b"x" * settings.MAX_MESSAGE_BYTES
    for _ in range(4):
        services.send(topic_id=topic, messages=[NewMessage(body)] * 10)
    assert len(pull(group).messages) == 32
    assert len(pull(group).messages) == 8
