"""Who is online, as recorded from ephemeral nodes; the nodes are made by an independent client."""

import json
from types import SimpleNamespace

import pytest
from registry_world import committed, published, put_cluster, put_group, put_topic, wait_for, why, world  # noqa: F401

from registry import services
from registry.models import Instance, Publication
from registry.observing import describe, followed, record

PLAIN_5 = "10.1.1.1||DEFAULT_PRODUCER||zms-1.0||2026-11-21T08:00:00.000||r1"
PLAIN_4 = "10.1.1.2||DEFAULT_CONSUMER||zms-0.9||r2"


def report(generation, **more):
    said = {
        "sdk": "mqadmin-python/1.0",
        "app": "order-service",
        "pid": 4711,
        "generation": generation,
        "appliedAt": "2026-11-21T08:00:00.123Z",
        "state": "running",
        "cluster": "kafka-a",
        "error": None,
    }
    return json.dumps(said | more).encode()


def ours(number):
    return f"10.1.2.{number}||DEFAULT_PRODUCER||mqadmin-python-1.0||2026-11-21T08:00:00.000||x{number}"


@pytest.fixture
def topic(world):  # noqa: F811
    """A published topic, with a registrar that watches."""
    rows = [put_cluster(), put_topic(), put_group()]
    world.registrar()
    published(*rows)
    return rows[1].path


def counts(path):
    row = Publication.objects.with_applied_counts().get(path=path)
    return row.online_count, row.applied_count, row.outdated_count, row.unknown_count


def test_instances_appear_report_and_vanish(world, topic):  # noqa: F811
    raw = world.raw()
    raw.create(f"{topic}/{ours(1)}", report(1), ephemeral=True)
    raw.create(f"{topic}/{ours(2)}", report(0, state="starting"), ephemeral=True)
    raw.create(f"{topic}/{PLAIN_5}", b"", ephemeral=True)
    raw.create(f"/zms/consumergroup/billing/{PLAIN_4}", b"", ephemeral=True)
    raw.create("/zpt-instances/order-service/stress-1/billing/10.1.1.3@-@99", report(1), ephemeral=True, makepath=True)
    wait_for(lambda: Instance.objects.online().count() == 5, what="five instances")
    assert counts(topic) == (3, 1, 1, 1)
    assert [instance.node for instance in services.online_instances(paths=[topic])] == sorted([PLAIN_5, ours(1), ours(2)])
    plain = Instance.objects.with_applied().get(node=PLAIN_5)
    assert (plain.plain, plain.applied, plain.ip, plain.sdk, plain.role, plain.applied_generation) == (
        True, "unknown", "10.1.1.1", "zms-1.0", "producer", None,
    )  # fmt: skip
    old = Instance.objects.get(node=PLAIN_4)
    assert (old.ip, old.role, old.path) == ("10.1.1.2", "consumer", "/zms/consumergroup/billing")
    shadow = Instance.objects.get(role="shadow")
    assert (shadow.path, shadow.ip, shadow.pid) == ("/zpt/order-service/stress-1/billing", "10.1.1.3", 4711)
    mine = Instance.objects.with_applied().get(node=ours(1))
    assert (mine.app, mine.pid, mine.state, mine.cluster, mine.applied) == ("order-service", 4711, "running", "kafka-a", "applied")
    assert mine.applied_at.isoformat() == "2026-11-21T08:00:00.123000+00:00"

    services.republish(paths=[topic], change=why())
    published(topic)
    assert counts(topic) == (3, 0, 2, 1)
    raw.set(f"{topic}/{ours(1)}", report(2))
    wait_for(lambda: counts(topic) == (3, 1, 1, 1), what="the report")
    raw.set(f"{topic}/{ours(2)}", report(1, state="failed", error="no route to broker"))
    wait_for(lambda: Instance.objects.filter(node=ours(2), state="failed", error="no route to broker").exists())
    raw.stop()
    wait_for(lambda: not Instance.objects.online().exists(), what="all to be gone")
    gone = Instance.objects.with_applied().get(node=ours(1))
    assert (gone.applied, gone.offline_at is not None) == ("offline", True)


def test_what_happened_while_no_registrar_ran_is_found_by_comparing(world, topic):  # noqa: F811
    raw = world.raw()
    raw.create(f"{topic}/{ours(1)}", report(1), ephemeral=True)
    wait_for(lambda: Instance.objects.online().count() == 1)
    first = Instance.objects.get()
    world.processes[0].end()
    raw.delete(f"{topic}/{ours(1)}")
    raw.create(f"{topic}/{ours(2)}", report(1), ephemeral=True)
    world.registrar()
    assert [instance.node for instance in Instance.objects.online()] == [ours(2)]
    raw.create(f"{topic}/{ours(1)}", report(1), ephemeral=True)
    again = wait_for(lambda: Instance.objects.online().filter(node=ours(1)).first(), what="its new incarnation")
    assert again.czxid > first.czxid
    assert again.first_seen == first.first_seen
    assert again.online_since > first.online_since


def test_an_older_report_never_overwrites_a_newer_one(committed):  # noqa: F811
    from types import SimpleNamespace

    from registry.observing import record

    def at(mzxid, generation):
        return SimpleNamespace(data=report(generation), stat=SimpleNamespace(czxid=5, mzxid=mzxid, ctime=1, mtime=1))

    znode = f"/zms/topic/orders/{ours(1)}"
    for mzxid, generation in [(10, 2), (9, 1), (10, 7)]:
        record({znode: at(mzxid, generation)})
    assert Instance.objects.get().applied_generation == 2
    record({znode: at(11, 3)})
    assert Instance.objects.get().applied_generation == 3


def test_retiring_waits_for_the_last_instance_and_says_so(world, topic):  # noqa: F811
    raw = world.raw()
    raw.create(f"{topic}/{PLAIN_5}", b"", ephemeral=True)
    wait_for(lambda: Instance.objects.online().exists())
    services.retract(path=topic, change=why())
    row = wait_for(lambda: Publication.objects.filter(path=topic).exclude(last_error="").first(), what="the reason")
    assert "online" in row.last_error
    assert raw.exists(topic)
    raw.delete(f"{topic}/{PLAIN_5}")
    published(topic, seconds=5)
    assert not raw.exists(topic)


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b'"x"', b"\xff", b'{"sdk":1,"generation":3}', b'{"app":"x","generation":3}'],
    ids=["broken", "list", "text", "binary", "sdk a number", "no sdk"],
)
def test_data_that_is_not_our_sdks_means_unknown(data):
    row = describe(f"/zms/topic/orders/{ours(1)}", _node(data))
    assert (row["plain"], row["applied_generation"]) == (True, None)


@pytest.mark.parametrize(
    "said",
    [
        {"generation": "9"},
        {"generation": -1},
        {"generation": 2**80},
        {"pid": "x"},
        {"appliedAt": "yesterday"},
        {"appliedAt": "2026-99-99T00:00:00Z"},
    ],
)
def test_nonsense_in_a_report_is_left_out(committed, said):  # noqa: F811
    from registry.observing import record

    znode = f"/zms/topic/orders/{ours(1)}"
    record({znode: _node(report(**{"generation": 1, "app": "nul\x00", "error": "x" * 9000} | said))})
    row = Instance.objects.get()
    key = {"generation": "applied_generation", "appliedAt": "applied_at"}.get(next(iter(said)), next(iter(said)))
    assert getattr(row, key) is None
    assert (row.app, len(row.error), row.plain) == ("nul", 4000, False)


@pytest.mark.parametrize(
    ("znode", "path"),
    [
        (f"/zms/topic/orders/{PLAIN_5}", "/zms/topic/orders"),
        ("/zms/topic/orders/lock-0001", None),
        ("/zms/topic/orders", None),
        (f"/zms/cluster/a/{PLAIN_5}", None),
        ("/zms/topic/orders/10.0.0.1||SOMETHING||x||y", None),
        ("/zpt-instances/app/task/group/10.0.0.1@-@7", "/zpt/app/task/group"),
        ("/zpt-instances/app/task/group/10.0.0.1", None),
        ("/zpt-instances/app/task/10.0.0.1@-@7", None),
        ("/zpt/app/task/group", None),
    ],
)
def test_which_nodes_are_instances(znode, path):
    assert followed(znode) == path


def _node(data):
    from types import SimpleNamespace

    return SimpleNamespace(data=data, stat=SimpleNamespace(czxid=1, mzxid=1, ctime=1, mtime=1))


COUNTS = [
    ({"succeeded": 17, "in_hand": 0}, {"succeeded": 17, "in_hand": 0}),
    ({"rate": 0.5}, {"rate": 0.5}),
    ({"yes": True, "text": "1", "list": [1], "": 3, "huge": 2**60, "good": 1}, {"good": 1}),
    ({"nul\x00": 1, "x" * 200: 2}, {"nul": 1, "x" * 60: 2}),
    ({str(number): number for number in range(1000)}, {str(number): number for number in range(30)}),
    ({"nothing": None}, None),
    ({}, None),
    ([1, 2], None),
    (7, None),
]


@pytest.mark.parametrize(("told", "kept"), COUNTS)
def test_counts_are_kept_as_far_as_they_are_numbers(db, told, kept):
    record({f"/zms/topic/orders/{ours(1)}": _node(report(1, counts=told))})
    row = Instance.objects.get()
    assert row.counts == kept
    assert (row.counted_at is None) == (kept is None)


def test_counts_that_are_no_json_numbers_hold_nobody_up(db):
    broken = report(1).replace(b"{", b'{"counts":{"a":NaN,"b":Infinity,"c":1e999,"d":2},', 1)
    record({f"/zms/topic/orders/{ours(number)}": _node(data) for number, data in enumerate([broken, report(1, counts={"a": 1})])})
    assert {row.node: row.counts for row in Instance.objects.all()} == {ours(0): {"d": 2}, ours(1): {"a": 1}}


def test_counts_stay_as_of_when_they_were_written_and_leave_no_history(db):
    def at(mzxid, mtime, **said):
        stat = SimpleNamespace(czxid=5, mzxid=mzxid, ctime=1_700_000_000_000, mtime=mtime)
        record({f"/zms/topic/orders/{ours(1)}": SimpleNamespace(data=report(**said), stat=stat)})
        return Instance.objects.get()

    first = at(5, 1_700_000_000_000, generation=1)
    assert (first.counts, first.counted_at) == (None, None)
    told = at(6, 1_700_000_030_000, generation=1, counts={"succeeded": 3})
    assert (told.counts, told.counted_at.timestamp()) == ({"succeeded": 3}, 1_700_000_030)
    moved = at(7, 1_700_000_040_000, generation=2, counts={"succeeded": 3})
    assert (moved.applied_generation, moved.counted_at.timestamp()) == (2, 1_700_000_030)
    more = at(8, 1_700_000_060_000, generation=2, counts={"succeeded": 4})
    assert (more.counts, more.counted_at.timestamp()) == ({"succeeded": 4}, 1_700_000_060)
    assert [event.kind for event in more.events.order_by("id")] == ["online", "applied", "applied"]


POISON = {
    "half of a surrogate pair": b'{"sdk":"x","app":"\\ud800"}',
    "a truth as a process": b'{"sdk":"x","pid":true}',
    "a truth as a generation": b'{"sdk":"x","generation":true}',
    "nested without end": b"[" * 100_000,
    "beyond the last year": b'{"sdk":"x","appliedAt":"9999-12-31T23:59:59-14:00"}',
    "before the first year": b'{"sdk":"x","appliedAt":"0001-01-01T00:00:00+14:00"}',
}


@pytest.mark.parametrize("data", POISON.values(), ids=POISON)
def test_what_a_client_writes_into_its_node_holds_nobody_up(db, data):
    stat = SimpleNamespace(version=0, czxid=5, mzxid=5, ctime=1_700_000_000_000, mtime=1_700_000_000_000)
    nodes = {f"/zms/topic/orders/{ours(number)}": SimpleNamespace(data=said, stat=stat) for number, said in enumerate([data, report(1)])}
    record(nodes)
    found = {instance.node: instance for instance in Instance.objects.all()}
    assert found[ours(0)].applied_generation is None
    assert found[ours(1)].applied_generation == 1


def test_an_instance_that_postgres_refuses_is_left_out_and_the_others_are_not(committed, monkeypatch):  # noqa: F811
    stat = SimpleNamespace(version=0, czxid=5, mzxid=5, ctime=1_700_000_000_000, mtime=1_700_000_000_000)
    monkeypatch.setattr("registry.observing._text", lambda value, _limit: value or "")
    nodes = [report(1, app="\x00"), report(1)]
    record({f"/zms/topic/orders/{ours(number)}": SimpleNamespace(data=said, stat=stat) for number, said in enumerate(nodes)})
    assert [instance.node for instance in Instance.objects.all()] == [ours(1)]
