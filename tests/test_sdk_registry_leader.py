"""The leader latch: one leader at a time, another soon, and a token that fences off the one that was."""

import json
import os
import signal
import sys

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from kazoo.protocol.connection import _CONNECTION_DROP
from registry_world import Lines, wait_for
from test_sdk_registry_sessions import expire, hit
from zookeeper_server import zookeeper_server  # noqa: F401

from mqadmin_sdk.registry import LeaderLatch, NotLeadingError
from mqadmin_sdk.registry.leader import ASKING, BELIEF

PATH = "/jobs/settlement"
ELECTION = f"{PATH}/leader/election"

#: Says on every look whether it leads, by a clock that all processes share.
PROGRAM = """
import sys, time
from mqadmin_sdk.registry import LeaderLatch, NotLeadingError

latch = LeaderLatch(sys.argv[1], "/jobs/settlement", session_timeout=float(sys.argv[2]))
print("ready", flush=True)
while True:
    before = time.monotonic()
    try:
        print("leads", before, latch.token, flush=True)
    except NotLeadingError:
        pass
    time.sleep(0.001)
"""


@pytest.fixture
def raw(zk_chroot):
    client = KazooClient(zk_chroot)
    client.start(timeout=15)
    yield client
    client.stop()
    client.close()


@pytest.fixture
def make(zk_chroot):
    """Makes candidates, each with a session of its own."""
    made = []

    def one(**options):
        made.append(LeaderLatch(zk_chroot, PATH, session_timeout=6 + len(made) / 1000, **options))
        return made[-1]

    yield one
    for found in made:
        found.close()


def test_the_first_candidate_leads_and_its_nodes_are_elasticjobs(make, raw):
    first = make()
    assert first.wait(30)
    second = make()
    wait_for(lambda: len(raw.get_children(f"{ELECTION}/latch")) == 2)
    assert not second.is_leader
    data, stat = raw.get(f"{ELECTION}/instance")
    assert data.decode() == first.leader
    assert data.decode().endswith(f"@-@{os.getpid()}")
    name = min(raw.get_children(f"{ELECTION}/latch"), key=lambda name: name[-10:])
    assert name.startswith("_c_")
    assert name[-17:-10] == "-latch-"
    latch = raw.exists(f"{ELECTION}/latch/{name}")
    assert latch.ephemeralOwner == stat.ephemeralOwner == first._keeper.client.session
    assert first.token == latch.czxid
    wait_for(lambda: second.leader == first.leader)


def test_a_candidate_with_an_application_says_so_beside_the_election_and_says_goodbye(make, raw, monkeypatch):
    monkeypatch.setenv("MQADMIN_APP", "billing")
    candidates = f"{PATH}/leader/candidates"
    first = make()
    assert first.wait(30)
    nobodys = make(app="")
    wait_for(lambda: len(raw.get_children(f"{ELECTION}/latch")) == 2)
    own = f"{candidates}/{first.leader}"
    wait_for(lambda: raw.exists(own))
    data, stat = raw.get(own)
    said = json.loads(data)
    assert (said["app"], said["pid"], stat.ephemeralOwner) == ("billing", os.getpid(), first._keeper.client.session)
    assert raw.get_children(candidates) == [first.leader]
    assert raw.get(f"{ELECTION}/instance")[0] == first.leader.encode()  # as ever
    assert {raw.get(f"{ELECTION}/latch/{name}")[0] for name in raw.get_children(f"{ELECTION}/latch")} == {first.leader.encode()}
    first.close()
    wait_for(lambda: not raw.get_children(candidates))
    nobodys.close()


def test_closing_the_leader_makes_the_next_one_lead_with_a_larger_token(make, raw):
    first = make()
    assert first.wait(30)
    second, third = make(), make()
    wait_for(lambda: len(raw.get_children(f"{ELECTION}/latch")) == 3)
    token = first.token
    first.close()
    assert not first.is_leader
    leader = wait_for(lambda: next((one for one in (second, third) if one.is_leader), None))
    assert leader.token > token
    with pytest.raises(NotLeadingError):
        _ = first.token
    assert not first.wait(0.01)


def test_callbacks_say_when_it_begins_and_ends(make):
    calls = []
    with make(on_change=calls.append) as latch:
        assert latch.wait(30)
        wait_for(lambda: calls == [True])
    wait_for(lambda: calls == [True, False])


def test_a_lost_connection_drops_leadership_at_once_and_coming_back_gives_it_again(make):
    calls, seen = [], []
    latch = make(on_change=calls.append)
    assert latch.wait(30)
    token, suspended = latch.token, latch._candidate.suspended

    def then():
        suspended()
        seen.append(latch.is_leader)  # still on kazoo's thread, which cannot have connected again

    latch._candidate.suspended = then
    hit(latch._keeper.client, _CONNECTION_DROP)
    wait_for(lambda: seen)
    assert seen == [False]
    assert latch.wait(30)
    assert latch.token == token
    wait_for(lambda: calls == [True, False, True])


def test_leadership_is_claimed_only_by_a_node_of_this_session(zk_chroot, make, raw):
    first = make()
    assert first.wait(30)
    second, token = make(), first.token
    wait_for(lambda: len(raw.get_children(f"{ELECTION}/latch")) == 2)
    expire(zk_chroot, first._keeper.client)
    assert second.wait(30)
    wait_for(lambda: len(raw.get_children(f"{ELECTION}/latch")) == 2)
    assert not first.is_leader
    assert second.token > token


def test_a_latch_node_deleted_by_hand_is_leadership_lost(make, raw):
    first, second = make(), make()
    leader, other = (first, second) if wait_for(lambda: first.is_leader or second.is_leader) and first.is_leader else (second, first)
    wait_for(lambda: len(raw.get_children(f"{ELECTION}/latch")) == 2)
    raw.delete(f"{ELECTION}/latch/{min(raw.get_children(f'{ELECTION}/latch'), key=lambda name: name[-10:])}")
    assert other.wait(30)
    wait_for(lambda: not leader.is_leader)
    wait_for(lambda: len(raw.get_children(f"{ELECTION}/latch")) == 2)


def test_a_leaders_transaction_succeeds_only_while_its_leadership_stands(make, raw):
    first = make()
    assert first.wait(30)
    good, late = first.transaction(), first.transaction()
    good.create("/good", b"")
    assert good.commit() == [True, "/good"]
    raw.delete(f"{ELECTION}/latch/{raw.get_children(f'{ELECTION}/latch')[0]}")
    late.create("/late", b"")
    assert any(isinstance(result, NoNodeError) for result in late.commit())
    assert raw.exists("/late") is None


def test_belief_ends_before_the_session_when_the_server_says_nothing(zookeeper_server):  # noqa: F811
    assert ASKING < BELIEF < 1
    latch = LeaderLatch(zookeeper_server.hosts, PATH, session_timeout=3)
    assert latch.wait(30)
    zookeeper_server.pause()
    wait_for(lambda: not latch.is_leader)
    zookeeper_server.resume()
    assert latch.wait(30)
    latch.close()


def test_a_forked_child_is_no_candidate(make):
    latch = make()
    assert latch.wait(30)
    child = os.fork()
    if child == 0:
        os._exit(1 if latch.is_leader or latch.wait(0.5) else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert latch.is_leader


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_another_takes_over_and_two_never_lead_at_one_moment(zk_chroot, blow):
    """Frozen, the old leader wakes up believing it leads; what it believes has run out by the shared monotonic clock."""
    processes = [Lines([sys.executable, "-c", PROGRAM, zk_chroot, "2"], dict(os.environ)) for _ in range(3)]

    def leading(among):
        return wait_for(lambda: next((one for one in among if any(line.startswith("leads") for line in one.seen)), None), what="a leader")

    try:
        for process in processes:
            process.expect("ready")
        old = leading(processes)
        others = [one for one in processes if one is not old]
        old.signal(blow)
        new = leading(others)
        if blow == signal.SIGSTOP:
            old.signal(signal.SIGCONT)
            count = len(new.seen)
            wait_for(lambda: len(new.seen) > count + 300)
        third = next(one for one in others if one is not new)
        new.signal(signal.SIGTERM)
        leading([third])
    finally:
        for process in processes:
            process.end()
    claims = sorted(
        (float(line.split()[1]), int(line.split()[2]), number)
        for number, process in enumerate(processes)
        for line in process.seen
        if line.startswith("leads ") and len(line.split()) == 3
    )
    tokens = [token for _at, token, _who in claims]
    assert tokens == sorted(tokens)  # by the clock that all share: once a later leadership was claimed, none before it is
    assert len({(token, who) for _at, token, who in claims}) == len(set(tokens))
    assert {who for _at, _token, who in claims} == {0, 1, 2}
