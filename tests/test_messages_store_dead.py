"""Dead letters: listed, filtered, by cause, purged, exported; and the search for messages."""

import csv
import io
import json
from datetime import timedelta

import pytest
from django.db import connection, transaction

from core.errors import Problem
from core.operations import driving
from core.operations.models import Operation
from messages import services
from messages.types import DeadFilter, NewMessage
from tests.store_world import bury, counts, drive, new_group, new_id, pull, redrive, settle, sql, status

pytestmark = pytest.mark.usefixtures("store")


def test_dead_letters_are_listed_filtered_and_paged():
    one, other = new_id(), new_id()
    group = new_group(one, other)
    a = bury(one, group, *"abc", reason="Timeout at db")
    b = bury(other, group, "d", reason="bad JSON")
    assert [x.id for x in services.dead_letters(group_id=group).items] == b + a[::-1]
    page = services.dead_letters(group_id=group, limit=3)
    assert [x.id for x in services.dead_letters(group_id=group, limit=3, cursor=page.next).items] == a[:1]
    for only, found in [
        (DeadFilter(topic_id=one), a),
        (DeadFilter(reason_contains="json"), b),
        (DeadFilter(reason_contains="%"), []),
        (DeadFilter(failed_to=page.items[-1].last_failed_at), a),
        (DeadFilter(tag="x"), []),
    ]:
        assert sorted(x.id for x in services.dead_letters(group_id=group, only=only).items) == found


def test_search_finds_by_key_tag_time_and_id_and_goes_on(monkeypatch):
    monkeypatch.setattr("messages.querysets.SCAN", 10)
    topic = new_id()
    batch = [NewMessage(str(i).encode(), key=f"k{i % 3}", tag="rare" if i == 2 else "common") for i in range(35)]
    ids = [a.id for a in services.send(topic_id=topic, messages=batch)]
    page = services.search(topic_id=topic, limit=4)
    assert [m.id for m in page.items] == ids[:-5:-1]
    found, pages, cursor = [], 0, None
    while True:  # a rare tag: empty pages that go on
        page = services.search(topic_id=topic, tag="rare", cursor=cursor)
        pages, found, cursor = pages + 1, found + page.items, page.next
        if cursor is None:
            break
    assert [m.id for m in found] == [ids[2]]
    assert pages == 4
    assert [m.id for m in services.search(topic_id=topic, key="k1", limit=5).items] == [i for n, i in enumerate(ids) if n % 3 == 1][:-6:-1]
    assert [m.id for m in services.search(topic_id=topic, message_id=ids[7]).items] == [ids[7]]
    assert services.search(topic_id=new_id(), message_id=ids[7]).items == []
    at = services.message(message_id=ids[-1]).sent_at
    assert services.search(topic_id=topic, sent_from=at).items[0].id == ids[-1]
    assert services.search(topic_id=topic, sent_from=at + timedelta(hours=1)).items == []
    assert services.search(topic_id=topic, sent_to=services.message(message_id=ids[0]).sent_at - timedelta(hours=1)).items == []


def test_reasons_that_differ_in_numbers_and_ids_only_are_one_cause():
    one, other = new_id(), new_id()
    group = new_group(one, other)
    reasons = [
        f"Order {n} failed: HTTP 503 from http://10.0.3.{n}/pay, trace {trace}, after {n}.5 s"
        for n, trace in enumerate(["8f14e45f-ceea-467f-a0d2-5d2a1c9f0a11", "4e732ced-3463-d06d-e0ca-9a15b6153677", "0x7f3a2b1c4d5e"])
    ]
    ids = [bury(topic, group, "x", reason=reason)[0] for topic, reason in zip([one, other, one], reasons, strict=True)]
    (odd,) = bury(one, group, "y", reason="KeyError: 'price'")
    bury(one, group, "z", reason="")
    sql("UPDATE mq_exception SET last_at = last_at - interval '2 days' WHERE group_id = %s AND msg_id = %s", group, ids[0])
    found = services.dead_causes(group_id=group)
    assert (found.items[0].cause, found.items[0].messages) == ("Order # failed: HTTP # from http://#/pay, trace # after # s", 3)
    assert {c.cause for c in found.items[1:]} == {"", "KeyError: 'price'"}
    assert (found.looked_at, found.complete, found.in_hour, found.in_day, found.in_week) == (5, True, 4, 4, 5)
    first = found.items[0]
    assert first.example in reasons
    assert found.oldest == first.oldest < first.newest - timedelta(days=1)
    assert [x.id for x in services.dead_letters(group_id=group, only=DeadFilter(cause=first.cause)).items] == ids[::-1]
    assert [x.id for x in services.dead_letters(group_id=group, only=DeadFilter(cause="KeyError: 'price'")).items] == [odd]
    assert services.dead_letters(group_id=group, only=DeadFilter(cause="KeyError")).items == []
    assert redrive(group, only=DeadFilter(cause=first.cause)).done == 3


def test_causes_of_fifty_thousand_dead_letters_are_told_without_a_look_at_the_log():
    topic = new_id()
    group = new_group(topic)
    sql(
        "INSERT INTO mq_exception (group_id, msg_id, topic_id, attempts, status, error)"
        " SELECT %s, i, %s, 1, 'D', 'Order ' || i || ' failed in region ' || i %% 3 FROM generate_series(1, 50000) i",
        group,
        topic,
    )
    try:
        found = services.dead_causes(group_id=group)
        assert [(c.cause, c.messages) for c in found.items] == [("Order # failed in region #", 50_000)]
        sql("ANALYZE mq_exception")
        call = "EXPLAIN (FORMAT TEXT) SELECT * FROM mq_dead_causes(%s, 50000)"
        with connection.cursor() as cursor:
            cursor.execute(call, (group,))
            plan = "\n".join(row[0] for row in cursor.fetchall())
        assert "mq_exception_dead" in plan
        assert "mq_message" not in plan
        assert not services.dead_causes(group_id=group, most=49_999).complete
    finally:
        sql("DELETE FROM mq_exception WHERE group_id = %s", group)


def test_purged_ones_become_failed_with_the_reason_and_the_counts_stay_exact():
    one, other = new_id(), new_id()
    group = new_group(one, other)
    a, b = bury(one, group, *"ab", reason="no stock")
    (c,) = bury(other, group, "c", reason="no price")
    done = drive(services.start_purge(group_id=group, only=DeadFilter(topic_id=one), reason="test orders"))
    assert (done.state, done.done, done.kind) == ("succeeded", 2, "messages.purge")
    assert counts(group) == {"dead": 1, "failed": 2}
    assert {(status(i, group).status, status(i, group).last_error) for i in (a, b)} == {("failed", "no stock; purged: test orders")}
    assert [x.id for x in services.dead_letters(group_id=group).items] == [c]
    again = drive(services.start_purge(group_id=group, ids=[a, c], reason="all of it"))
    assert (again.state, again.done, again.failed) == ("partial", 1, 1)
    assert [i.code for i in again.items.filter(state="failed")] == ["not_dead"]
    assert counts(group) == {"failed": 3}
    assert pull(group).messages == []


def test_a_killed_chunk_of_a_purge_changes_nothing():
    topic = new_id()
    group = new_group(topic)
    bury(topic, group, *"abc")
    started = services.start_purge(group_id=group, only=DeadFilter(), reason="old")
    with pytest.raises(RuntimeError), transaction.atomic():  # noqa: PT012
        driving.take_on(started.pk)
        raise RuntimeError  # the worker is killed before its commit
    assert counts(group) == {"dead": 3}
    assert drive(started).done == 3
    assert counts(group) == {"failed": 3}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"only": DeadFilter(), "reason": " "}, "reason_required"),
        ({"reason": "x"}, "invalid_redrive"),
        ({"reason": "x", "ids": [0]}, "invalid_redrive"),
    ],
    ids=str,
)
def test_it_refuses_a_purge_that_makes_no_sense(fields, code):
    group = new_group(new_id())
    with pytest.raises(Problem) as refused:
        services.start_purge(group_id=group, **fields)
    assert refused.value.code == code


def test_an_unknown_group_is_not_purged():
    with pytest.raises(Problem) as refused:
        services.start_purge(group_id=new_id(), only=DeadFilter(), reason="x")
    assert refused.value.code == "not_found"


def exported(group, form="jsonl", bodies=None, **only):
    return b"".join(services.export_dead(group_id=group, only=DeadFilter(**only), form=form, bodies=bodies)).decode()


def test_an_export_has_all_that_match_newest_first(monkeypatch):
    monkeypatch.setattr("messages.exporting.PAGE", 2)
    monkeypatch.setattr("messages.exporting.BYTES", 3)
    topic, other = new_id(), new_id()
    group = new_group(topic, other)
    fields = {"key": "=1+1", "tag": "paid", "sharding_key": "s", "headers": {"h": "ü"}}
    ids = [a.id for a in services.send(topic_id=topic, messages=[NewMessage(b, **fields) for b in (b"one", b"\xff\x00", b"")])]
    settle(group, pull(group), "dead", error='said "no",\nthen left')
    hidden = bury(other, group, "secret", reason="x")
    lines = [json.loads(line) for line in exported(group, bodies=[topic]).splitlines()]
    assert [line["id"] for line in lines] == hidden + ids[::-1]
    assert "body" not in lines[0]
    assert "body_base64" not in lines[0]
    assert [line.get("body", line.get("body_base64")) for line in lines[1:]] == ["", "/wA=", "one"]
    assert {name: lines[3][name] for name in ("key", "tag", "sharding_key", "headers", "reason", "body_bytes", "attempts")} == {
        "key": "=1+1", "tag": "paid", "sharding_key": "s", "headers": {"h": "ü"}, "reason": 'said "no",\nthen left', "body_bytes": 3,
        "attempts": 1,
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(exported(group, "csv", bodies=[topic], topic_id=topic).lstrip("\ufeff"))))
    assert [(row["id"], row["key"], row["body"], row["body_base64"]) for row in rows] == [
        (str(ids[2]), "'=1+1", "", ""), (str(ids[1]), "'=1+1", "", "/wA="), (str(ids[0]), "'=1+1", "one", ""),
    ]  # fmt: skip
    assert "secret" not in exported(group, "csv", bodies=[])
    assert "body_base64" not in exported(group, "csv", bodies=[])


def test_while_a_slow_client_reads_neither_a_transaction_nor_a_connection_is_open(monkeypatch):
    monkeypatch.setattr("messages.exporting.PAGE", 1)
    topic = new_id()
    group = new_group(topic)
    early = bury(topic, group, *"abc")
    lines = services.export_dead(group_id=group, only=DeadFilter(), form="jsonl", bodies=None)
    assert json.loads(next(lines))["id"] == early[2]
    assert connection.connection is None
    bury(topic, group, "late")
    services.start_purge(group_id=group, ids=early[:1], reason="meanwhile")
    drive(Operation.objects.latest("pk"))
    assert [json.loads(line)["id"] for line in lines] == [early[1]]
