"""Dead letters and their redrive: a result per message, frozen, resumable, idempotent."""

from datetime import timedelta

import pytest
from django.db import transaction

from clusters.drivers import builtin
from core.errors import Problem
from messages import redrives, services
from messages.models import Redrive, RedriveItem
from messages.types import DeadFilter, NewMessage
from tests.store_world import Threads, counts, new_group, new_id, pull, send, settle, status

pytestmark = pytest.mark.usefixtures("store")


def bury(topic, group, *names, reason="broken"):
    ids = send(topic, *names)
    batch = pull(group, limit=1000)
    assert [m.id for m in batch.messages] == ids
    settle(group, batch, "dead", error=reason)
    return ids


def finish(redrive, limit=500):
    while services.redrive_step(redrive_id=redrive.pk, limit=limit):
        pass
    redrive.refresh_from_db()
    return redrive


def results(redrive):
    return [(i.message_id, i.state, i.reason) for i in services.redrive_results(redrive_id=redrive.pk, limit=500).items]


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


def test_redrive_of_selected_messages_delivers_them_again_with_fresh_attempts():
    topic = new_id()
    group = new_group(topic, max_attempts=2)
    ids = bury(topic, group, *"abc")
    redrive = services.start_redrive(group_id=group, ids=ids[:2], reason="fixed in 1.2")
    assert (redrive.state, redrive.total) == ("running", 2)
    assert counts(group) == {"dead": 3}
    finish(redrive)
    assert (redrive.state, redrive.redriven, redrive.refused, redrive.reason) == ("finished", 2, 0, "fixed in 1.2")
    assert redrive.finished_at is not None
    assert results(redrive) == [(i, "redriven", "") for i in ids[:2]]
    assert counts(group) == {"dead": 1, "later": 2}
    batch = pull(group)
    assert [(m.id, m.attempt) for m in batch.messages] == [(i, 1) for i in ids[:2]]
    settle(group, batch, messages=batch.messages[:1])
    assert settle(group, batch, "failed", messages=batch.messages[1:])[0].status == "later"
    again = pull(group)
    assert settle(group, again, "failed", error="again")[0].status == "dead"
    assert counts(group) == {"dead": 2, "succeeded": 1}
    assert {x.id: x.redrives for x in services.dead_letters(group_id=group).items} == {ids[1]: 1, ids[2]: 0}


def test_it_refuses_per_message_what_is_no_longer_dead():
    topic = new_id()
    group = new_group(topic)
    a, b = bury(topic, group, *"ab")
    finish(services.start_redrive(group_id=group, ids=[a]))
    settle(group, pull(group))
    redrive = finish(services.start_redrive(group_id=group, ids=[a, b, 12345]))
    assert results(redrive) == [(12345, "refused", "not_dead"), (a, "refused", "not_dead"), (b, "redriven", "")]
    assert (redrive.redriven, redrive.refused) == (1, 2)
    assert status(a, group).status == "succeeded"


def test_it_refuses_messages_of_a_topic_that_the_group_has_left():
    topic = new_id()
    group = new_group(topic)
    (a,) = bury(topic, group, "a")
    builtin.unsubscribe(group_id=group, topic_id=topic)
    redrive = finish(services.start_redrive(group_id=group, ids=[a]))
    assert results(redrive) == [(a, "refused", "not_subscribed")]
    assert counts(group) == {"dead": 1}


def test_a_filter_is_frozen_when_the_redrive_begins():
    topic = new_id()
    group = new_group(topic)
    early = bury(topic, group, *"ab", reason="timeout")
    bury(topic, group, "c", reason="other")
    redrive = services.start_redrive(group_id=group, only=DeadFilter(topic_id=topic, reason_contains="TIMEOUT"))
    bury(topic, group, "d", reason="timeout")
    assert redrive.filter == {"topic_id": topic, "reason_contains": "TIMEOUT"}
    finish(redrive)
    assert results(redrive) == [(i, "redriven", "") for i in early]
    assert counts(group) == {"dead": 2, "later": 2}


def test_steps_are_bounded_and_a_killed_step_changes_nothing():
    topic = new_id()
    group = new_group(topic)
    bury(topic, group, *(str(i) for i in range(25)))
    redrive = services.start_redrive(group_id=group, only=DeadFilter())
    assert services.redrive_step(redrive_id=redrive.pk, limit=10) is True
    assert counts(group) == {"dead": 15, "later": 10}
    with pytest.raises(RuntimeError), transaction.atomic():  # noqa: PT012
        services.redrive_step(redrive_id=redrive.pk, limit=10)
        raise RuntimeError  # the worker is killed before its commit
    assert counts(group) == {"dead": 15, "later": 10}
    finish(redrive, limit=10)
    assert (redrive.redriven, redrive.refused, redrive.total) == (25, 0, 25)
    assert services.redrive_step(redrive_id=redrive.pk) is False
    assert counts(group) == {"later": 25}


def test_concurrent_steps_redrive_each_message_once():
    topic = new_id()
    group = new_group(topic)
    ids = bury(topic, group, *(str(i) for i in range(200)))
    redrive = services.start_redrive(group_id=group, only=DeadFilter())
    taken = []

    def worker():
        while services.redrive_step(redrive_id=redrive.pk, limit=7):
            taken.append(1)

    def consumer():
        for _ in range(30):
            settle(group, pull(group, limit=10))

    threads = Threads()
    for work in (worker, worker, worker, consumer):
        threads.start(work)
    threads.join()
    redrive.refresh_from_db()
    assert (redrive.redriven, redrive.refused, redrive.state) == (200, 0, "finished")
    assert [r[1] for r in results(redrive)] == ["redriven"] * 200
    while (batch := pull(group)).messages:
        settle(group, batch)
    assert counts(group) == {"succeeded": 200}
    assert len(ids) == 200


def test_the_task_finds_running_redrives_and_finishes_them():
    topic = new_id()
    group = new_group(topic)
    bury(topic, group, *"abc")
    redrive = services.start_redrive(group_id=group, only=DeadFilter())
    while services.run_redrives():
        pass
    redrive.refresh_from_db()
    assert redrive.state == "finished"
    assert RedriveItem.objects.filter(redrive=redrive, state="pending").count() == 0


def test_a_redrive_of_nothing_finishes():
    group = new_group(new_id())
    assert finish(services.start_redrive(group_id=group, only=DeadFilter())).state == "finished"


def test_results_come_in_pages():
    topic = new_id()
    group = new_group(topic)
    ids = bury(topic, group, *"abc")
    redrive = finish(services.start_redrive(group_id=group, ids=ids))
    page = services.redrive_results(redrive_id=redrive.pk, limit=2)
    rest = services.redrive_results(redrive_id=redrive.pk, limit=2, cursor=page.next)
    assert [i.message_id for i in page.items + rest.items] == ids
    assert rest.next is None
    with pytest.raises(Problem):
        services.redrive_results(redrive_id=0)


@pytest.mark.parametrize(
    "bad", [{}, {"ids": [1], "only": DeadFilter()}, {"ids": []}, {"ids": [0]}, {"ids": [2**63]}, {"ids": list(range(1, 1002))}]
)
def test_it_refuses_a_redrive_that_makes_no_sense(bad):
    group = new_group(new_id())
    before = Redrive.objects.count()
    with pytest.raises(Problem) as refused:
        services.start_redrive(group_id=group, **bad)
    assert refused.value.code == "invalid_redrive"
    assert Redrive.objects.count() == before


def test_it_refuses_an_unknown_group():
    with pytest.raises(Problem) as refused:
        services.start_redrive(group_id=new_id(), only=DeadFilter())
    assert refused.value.code == "not_found"


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


def test_a_redrive_that_fails_holds_up_no_other_and_they_take_turns(monkeypatch):
    monkeypatch.setattr(redrives, "STEP", 1)
    topic = new_id()
    bad, long, short = (new_group(topic) for _ in range(3))
    ids = send(topic, "a", "b", "c")
    for group in (bad, long, short):
        settle(group, pull(group), "dead")
    jobs = [services.start_redrive(group_id=group, ids=ids[:n]) for group, n in ((bad, 1), (long, 3), (short, 1))]
    Redrive.objects.filter(pk=jobs[0].pk).update(group_id=new_id())
    assert services.run_redrives(steps=5) == 5
    states = [Redrive.objects.get(pk=job.pk).redriven for job in jobs]
    assert states[0] == 0
    assert states[1] >= 1
    assert states[2] == 1
    Redrive.objects.filter(pk=jobs[0].pk).update(group_id=bad)
    while services.run_redrives():
        pass


def test_however_many_redrives_fail_each_other_one_has_its_turn(monkeypatch):
    topic = new_id()
    group = new_group(topic)
    ids = bury(topic, group, "a")
    while services.run_redrives(steps=500) > 1:
        pass
    failing = [services.start_redrive(group_id=group, ids=[1]).pk for _ in range(120)]
    Redrive.objects.filter(pk__in=failing).update(group_id=new_id())  # not in the store: each step of theirs is an error
    try:
        good = services.start_redrive(group_id=group, ids=ids)
        for turn in (None, failing[0], failing[-1], 2**62):
            Redrive.objects.filter(pk=good.pk).update(state="running")
            monkeypatch.setattr(redrives, "_turn", turn)
            for _call in range(14):  # 121 of 10 a call are one round
                assert services.run_redrives(steps=10) == 10
            good.refresh_from_db()
            assert good.state == "finished"
    finally:
        Redrive.objects.filter(pk__in=failing).update(state="finished")
    assert counts(group) == {"later": 1}


def test_it_refuses_to_redrive_for_a_retired_group_and_begins_nothing():
    topic = new_id()
    group = new_group(topic)
    ids = bury(topic, group, "a")
    builtin.retire_group(group_id=group)
    for what in ({"ids": ids}, {"only": DeadFilter()}):
        with pytest.raises(Problem) as refused:
            services.start_redrive(group_id=group, **what)
        assert (refused.value.code, refused.value.status) == ("group_retired", 409)
    assert not Redrive.objects.filter(group_id=group).exists()
    assert counts(group) == {"dead": 1}
