"""Sticky load balance: a sharding key stays with its worker, moves when it leaves, and nothing is lost or handed out twice."""

import pytest
from store_world import Threads, bodies, counts, expire_now, new_group, new_id, pull, redrive, send, session, settle, sql, status, until

from clusters.drivers import builtin
from core.errors import Problem
from messages import services, waiting
from messages.types import NewMessage, Outcome

pytestmark = pytest.mark.usefixtures("store")
KEYS = [f"k{i}" for i in range(40)]


def sticky_group(*topics, sticky=True, **fields):
    group = new_group(*topics, **fields)
    builtin.set_balance(group_id=group, sticky=sticky)
    return group


def send_keys(topic, keys):
    """A message for each, with the key as its body; None: without a key."""
    ids = []
    for i in range(0, len(keys), 1000):
        batch = [NewMessage((k or "-").encode(), sharding_key=k) for k in keys[i : i + 1000]]
        ids += [a.id for a in services.send(topic_id=topic, messages=batch)]
    services.tick()
    return ids


@pytest.fixture
def lobby():
    made = waiting.Lobby(20)
    yield made
    made.close()
    until(lambda: made.parked == 0)


def owner(group, key):
    """Whose the key is."""
    return sql("SELECT name FROM mq_worker WHERE group_id = %s AND mq_slot(mq_wkey(0::smallint, 0, %s)) = ANY (slots)", group, key)


def of(group, name):
    return next((w for w in services.workers(group_id=group).items if w.name == name), None)


def everything(group, name, **fields):
    """What one worker gets until it gets nothing more, each settled as succeeded."""
    got = []
    while (batch := pull(group, consumer=name, **fields)).lease:
        got += bodies(batch)
        settle(group, batch)
    return got


def join(group, *names):
    for name in names:
        assert pull(group, consumer=name).lease is None


def test_each_worker_gets_the_keys_that_are_its_own():
    topic = new_id()
    group = sticky_group(topic)
    join(group, "one", "two", "three")
    send_keys(topic, KEYS)
    got = {name: everything(group, name, limit=7) for name in ("one", "two", "three")}
    assert sorted([*got["one"], *got["two"], *got["three"]]) == sorted(KEYS)
    for name, keys in got.items():
        assert keys
        assert {owner(group, key) for key in keys} == {name}
    assert counts(group) == {"succeeded": 40}


def test_a_worker_that_comes_takes_its_share_from_the_others_and_no_more():
    group = sticky_group(new_id())
    seen = {}
    for n in range(1, 8):
        join(group, f"w{n}")
        slots = {name: set(sql("SELECT slots FROM mq_worker WHERE group_id = %s AND name = %s", group, name)) for name in [*seen, f"w{n}"]}
        assert sorted(len(s) for s in slots.values()) == sorted(256 // n + (i < 256 % n) for i in range(n))
        assert set().union(*slots.values()) == set(range(256))
        assert all(slots[name] <= before for name, before in seen.items())  # nothing moved between those that were there
        seen = slots
    services.leave_group(group_id=group, name="w3")
    for name in seen.keys() - {"w3"}:
        assert set(sql("SELECT slots FROM mq_worker WHERE group_id = %s AND name = %s", group, name)) >= seen[name]
    assert sql("SELECT dealt FROM mq_group WHERE group_id = %s", group) == 8
    assert services.leave_group(group_id=group, name="w3") is False


def test_what_is_passed_is_parked_for_its_worker_and_waits():
    topic = new_id()
    group = sticky_group(topic)
    join(group, "one", "two")
    ids = send_keys(topic, KEYS)
    batch = pull(group, consumer="one")
    mine = {m.id for m in batch.messages}
    assert {owner(group, m.sharding_key) for m in batch.messages} == {"one"}
    parked = [i for i in ids if i not in mine and i < max(mine)]
    assert counts(group) == {"waiting": 40 - len(mine), "processing": len(mine)}
    assert {status(i, group).status for i in parked} == {"waiting"}
    shown = of(group, "two")
    assert (shown.slots, shown.share, shown.parked, shown.processing, of(group, "one").processing) == (128, 0.5, len(parked), 0, len(mine))
    two = pull(group, consumer="two")
    assert [m.id for m in two.messages] == [i for i in ids if i not in mine]
    assert {m.attempt for m in two.messages} == {1}
    settle(group, batch)
    settle(group, two)
    assert counts(group) == {"succeeded": 40}
    assert {(status(i, group).status, status(i, group).consumer, status(i, group).attempts) for i in parked} == {("succeeded", "two", 1)}
    trace = services.trace(services.message(message_id=parked[0]))
    assert [(e.event, e.consumer) for e in trace if e.group_id == group] == [("pulled", "two"), ("succeeded", "two")]
    assert of(group, "two").parked == 0


def test_messages_without_a_key_are_anybodys():
    topic = new_id()
    group = sticky_group(topic)
    join(group, "one", "two")
    send_keys(topic, [None] * 6)
    assert len(pull(group, consumer="two", limit=4).messages) == 4
    assert len(pull(group, consumer="one", limit=4).messages) == 2


def test_a_key_goes_by_its_name_on_all_topics_and_an_ordered_topic_as_a_whole_by_the_topic():
    plain, keyed, whole = new_id(), new_id(), new_id()
    builtin.set_ordering(topic_id=keyed, ordering="key")
    builtin.set_ordering(topic_id=whole, ordering="topic")
    group = sticky_group(plain, keyed, whole)
    join(group, "one", "two")
    for topic in (plain, keyed, whole):
        send_keys(topic, KEYS)
    got = {"one": [], "two": []}
    for _round in range(200):
        for name, messages in got.items():
            batch = pull(group, consumer=name)
            messages.extend(batch.messages)
            if batch.lease:
                settle(group, batch)
    assert counts(group) == {"succeeded": 120}
    for name, messages in got.items():
        assert {owner(group, m.sharding_key) for m in messages if m.topic_id != whole} == {name}
    assert sorted(sum(m.topic_id == whole for m in messages) for messages in got.values()) == [0, 40]


def test_a_key_in_hand_moves_when_its_message_is_done_and_not_before():
    topic = new_id()
    group = sticky_group(topic)
    join(group, "old")
    send_keys(topic, KEYS)
    old = pull(group, consumer="old")
    join(group, "new")
    assert of(group, "new").awaited == len({k for k in KEYS if owner(group, k) == "new"}) > 0
    ids = send_keys(topic, KEYS)
    fresh = pull(group, consumer="old")
    assert {owner(group, m.sharding_key) for m in fresh.messages} == {"old"}
    assert pull(group, consumer="new").lease is None
    settle(group, old)
    moved = pull(group, consumer="new")
    assert [m.id for m in moved.messages] == [i for i, k in zip(ids, KEYS, strict=True) if owner(group, k) == "new"]
    assert of(group, "new").awaited == 0


def test_a_key_in_the_hands_of_a_dead_worker_moves_when_its_lease_has_ended():
    topic = new_id()
    group = sticky_group(topic)
    join(group, "dead", "heir")
    send_keys(topic, KEYS)
    lost = pull(group, consumer="dead", limit=3)
    keys = {m.sharding_key for m in lost.messages}
    sql("UPDATE mq_worker SET seen_at = seen_at - interval '1 hour' WHERE group_id = %s AND name = 'dead'", group)
    assert services.drop_silent_workers() == 0  # whoever has something in hand may be working on it
    services.leave_group(group_id=group, name="dead")
    send_keys(topic, KEYS)
    got = everything(group, "heir")
    assert set(got) == set(KEYS) - keys  # the other keys of the dead one have moved
    expire_now(group)
    assert sorted(everything(group, "heir")) == sorted([*keys, *keys])
    assert counts(group) == {"succeeded": 80}


def test_silent_workers_leave_and_come_back():
    topic = new_id()
    group = sticky_group(topic)
    join(group, "one", "two")
    sql("UPDATE mq_worker SET seen_at = seen_at - interval '61 seconds' WHERE group_id = %s AND name = 'one'", group)
    assert services.drop_silent_workers() == 1
    assert [(w.name, w.slots) for w in services.workers(group_id=group).items] == [("two", 256)]
    join(group, "one")
    assert of(group, "one").slots == 128
    sql("UPDATE mq_worker SET seen_at = seen_at - interval '30 seconds' WHERE group_id = %s", group)
    join(group, "one")
    sql("UPDATE mq_worker SET seen_at = seen_at - interval '40 seconds' WHERE group_id = %s", group)
    assert services.drop_silent_workers() == 1  # one has asked since
    assert of(group, "two") is None


def test_what_is_parked_moves_with_its_key():
    topic = new_id()
    group = sticky_group(topic)
    join(group, "one", "two", "three")
    send_keys(topic, KEYS)
    mine = {k for k in KEYS if owner(group, k) == "one"}
    assert set(everything(group, "one")) == mine
    services.leave_group(group_id=group, name="two")
    left = everything(group, "one") + everything(group, "three")
    assert sorted(left) == sorted(set(KEYS) - mine)
    services.leave_group(group_id=group, name="one")
    services.leave_group(group_id=group, name="three")
    send_keys(topic, ["last"])
    assert everything(group, "four") == ["last"]


def test_a_retry_goes_to_whose_key_it_is():
    topic = new_id()
    group = sticky_group(topic)
    join(group, "one", "two")
    send_keys(topic, KEYS)
    batch = pull(group, consumer="one")
    settle(group, batch, "failed", error="not yet")
    assert not {m.id for m in pull(group, consumer="two").messages} & {m.id for m in batch.messages}
    again = pull(group, consumer="one")
    assert {(m.id, m.attempt) for m in again.messages} == {(m.id, 2) for m in batch.messages}
    settle(group, again, "failed", error="still not")
    settle(group, pull(group, consumer="one"), "failed", error="never")
    dead = services.dead_letters(group_id=group).items
    assert {d.id for d in dead} == {m.id for m in batch.messages}


def test_as_much_is_parked_as_may_be_and_then_a_pull_says_so():
    topic = new_id()
    group = sticky_group(topic)
    join(group, "one", "two")
    hot = next(k for k in KEYS if owner(group, k) == "one")
    cold = next(k for k in KEYS if owner(group, k) == "two")
    send_keys(topic, [hot] * 9_000 + [cold] + [hot] * 3_000 + [cold])
    assert len(everything(group, "two")) == 1
    for _round in range(5):  # those in front of the next one of its own are more than may be parked
        batch = pull(group, consumer="two")
        assert (batch.lease, batch.reason) == (None, "parked")
    assert of(group, "one").parked == 10_000
    assert sql("SELECT mq_workers_ready(%s)", [batch.worker]) is None  # it is not woken in vain
    assert counts(group) == {"waiting": 12_001, "succeeded": 1}
    took = pull(group, consumer="one", limit=1000)
    assert len(took.messages) == 1000
    settle(group, took)
    assert pull(group, consumer="two").reason == "parked"
    assert len(everything(group, "one", limit=1000)) == 11_000
    assert len(everything(group, "two")) == 1
    assert counts(group) == {"succeeded": 12_002}


def test_switched_while_it_runs_nothing_is_lost_and_nothing_comes_twice():
    topic, ordered = new_id(), new_id()
    builtin.set_ordering(topic_id=ordered, ordering="key")
    group = sticky_group(topic, ordered, sticky=False)
    send_keys(topic, KEYS)
    shared = pull(group, consumer="one", limit=10)
    builtin.set_balance(group_id=group, sticky=True)
    two = pull(group, consumer="two")
    assert len(two.messages) == 30  # it is the only one; what the other has in hand are other keys
    join(group, "one")
    send_keys(ordered, KEYS)
    send_keys(topic, KEYS)
    mine = pull(group, consumer="one")
    held = {m.sharding_key for m in two.messages}
    assert not {m.sharding_key for m in mine.messages} & held
    assert sql("SELECT sum(held) FROM mq_cursor WHERE group_id = %s", group) > 0
    builtin.set_balance(group_id=group, sticky=False)
    assert services.workers(group_id=group).items == []
    assert sql("SELECT count(*) FROM mq_exception WHERE group_id = %s AND status = 'B' AND slot IS NOT NULL", group) == 0
    for batch in (shared, two, mine):
        settle(group, batch)
    left = everything(group, "")
    assert len(left) + len(shared.messages) + len(two.messages) + len(mine.messages) == 120
    assert counts(group) == {"succeeded": 120}


def test_a_sticky_group_hands_out_nothing_to_nobody_in_particular():
    topic = new_id()
    group = sticky_group(topic)
    send(topic, "x")
    with pytest.raises(Problem) as refused:
        pull(group, consumer="")
    assert refused.value.code == "consumer_required"
    settled, batch = services.next(group_id=group, lease=None, outcomes=[], limit=1, visibility_ms=1000, consumer="w")
    assert (settled, bodies(batch)) == ([], ["x"])
    done = [Outcome(m.id, "succeeded") for m in batch.messages]
    settled, batch = services.next(group_id=group, lease=batch.lease, outcomes=done, limit=1, visibility_ms=1000, consumer="")
    assert ([s.status for s in settled], batch.reason) == (["succeeded"], "consumer_required")


def test_there_are_so_many_workers_and_no_more():
    topic = new_id()
    group = sticky_group(topic)
    sql(
        "INSERT INTO mq_worker (worker_id, group_id, name) SELECT nextval('mq_worker_seq'), %s, 'w' || n FROM generate_series(1, 1000) n",
        group,
    )
    with pytest.raises(Problem) as refused:
        pull(group, consumer="one more")
    assert refused.value.code == "too_many_workers"
    join(group, "w7")


def test_a_waiting_worker_wakes_for_its_own_messages_and_no_other_does(lobby):
    topic = new_id()
    group = sticky_group(topic)
    workers = {name: waiting.Worker(pull(group, consumer=name).worker) for name in ("one", "two")}
    mine = next(k for k in KEYS if owner(group, k) == "two")
    threads, woken = Threads(), {}
    for name, worker in workers.items():
        threads.start(lambda name=name, worker=worker: woken.update({name: lobby.wait(worker, 60)}))
    until(lambda: lobby.parked == 2, 30)
    send_keys(topic, [mine])
    until(lambda: woken, 30)
    assert woken == {"two": True}
    assert everything(group, "two") == [mine]
    # What one passes wakes the one for whom it was parked.
    threads.start(lambda: woken.update({"two again": lobby.wait(workers["two"], 60)}))
    until(lambda: lobby.parked == 2, 30)
    yours = next(k for k in KEYS if owner(group, k) == "one")
    send_keys(topic, [mine, yours])
    until(lambda: len(woken) == 3, 30)
    threads.join()
    assert set(woken.values()) == {True}
    assert everything(group, "one") + everything(group, "two") == [yours, mine]
    # And one whose place is gone asks anew.
    threads.start(lambda: woken.update({"gone": lobby.wait(workers["two"], 60)}))
    until(lambda: lobby.parked == 1, 30)
    services.leave_group(group_id=group, name="two")
    threads.join()
    assert woken["gone"] is True


def test_parked_messages_expire_and_come_back_as_anything_else():
    topic = new_id()
    builtin.set_limits(topic_id=topic, ttl_seconds=3600, max_length=0)
    group = sticky_group(topic)
    join(group, "one", "two")
    ids = send_keys(topic, KEYS)
    settle(group, pull(group, consumer="one"))
    parked = sql("SELECT array_agg(msg_id ORDER BY msg_id) FROM mq_exception WHERE group_id = %s AND status = 'B'", group)
    sql("UPDATE mq_limit SET expired_id = %s WHERE topic_id = %s", ids[-1], topic)
    assert pull(group, consumer="two").lease is None
    until(lambda: not pull(group, consumer="two").lease and counts(group).get("waiting", 0) == 0, 30)
    assert {d.id for d in services.dead_letters(group_id=group).items} >= set(parked)
    redrive(group, ids=parked)
    assert [m.id for m in pull(group, consumer="two").messages] == parked


@pytest.mark.parametrize("shared_meanwhile", [False, True])
def test_a_rewind_and_its_undo_keep_what_is_parked(shared_meanwhile):
    topic = new_id()
    group = sticky_group(topic)
    join(group, "one", "two")
    send_keys(topic, KEYS)
    settle(group, pull(group, consumer="one"))
    before = counts(group)
    plan = services.preview_reset(group_id=group, topic_id=topic, to="earliest")
    assert (plan.repeated, plan.first_time) == (before["succeeded"], sql("SELECT held FROM mq_cursor WHERE group_id = %s", group))
    made = services.reset(group_id=group, topic_id=topic, position=plan.position, fingerprint=plan.fingerprint)
    assert counts(group) == {"waiting": 40}
    if shared_meanwhile:
        builtin.set_balance(group_id=group, sticky=False)
    services.undo_reset(reset_id=made.pk)
    assert sum(counts(group).values()) == 40
    assert counts(group)["succeeded"] == before["succeeded"]
    assert len(everything(group, "two") + everything(group, "one")) == 40 - before["succeeded"]


def test_the_shared_way_asks_no_statement_more():
    """What a shared pull does in Postgres is what it did: it looks at no table of the sticky groups."""
    scans = (
        "SELECT sum(coalesce(seq_scan, 0) + coalesce(idx_scan, 0))::int FROM pg_stat_xact_user_tables"
        " WHERE relname IN ('mq_worker', 'mq_moved')"
    )
    looked = {}
    for sticky in (False, True):
        topic = new_id()
        group = sticky_group(topic, sticky=sticky)
        send_keys(topic, KEYS)
        with session(autocommit=False) as own:
            own.execute("SELECT mq_pull(%s, 10, '1 minute', 'w', true)", (group,))
            (looked[sticky],) = own.execute(scans).fetchone()
    assert looked[False] == 0
    assert looked[True] > 0
