"""Sharded jobs: who has which shard, what happens when instances come, go and die, and that no shard runs twice at once."""

import contextlib
import json
import os
import signal
import sys
import threading

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError
from registry_world import Lines, wait_for
from test_sdk_registry_sessions import expire

from mqadmin_sdk.registry import RegistryClosedError, RegistryUnavailableError, ShardedJob, average

JOB = "/jobs/settlement"

#: Runs its shards when it is told to, each until a line comes.
PROGRAM = """
import sys, threading
from mqadmin_sdk.registry import ShardedJob

go = threading.Semaphore(0)


def run(shard):
    print("begins", shard.shard, "failover" if shard.failover else "", flush=True)
    go.acquire()
    print("ends", shard.shard, "held" if shard.held else "lost", flush=True)


hosts, instance, failover = sys.argv[1:]
job = ShardedJob(hosts, "/jobs/settlement", run, shards=4, failover=failover == "on", instance=instance, session_timeout=2)
print("ready", flush=True)
for line in sys.stdin:
    if line == "trigger\\n":
        threading.Thread(target=lambda: print("ran", job.trigger(), flush=True), daemon=True).start()
    else:
        go.release()
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
    """Makes instances, each with a session of its own; their runs come to `make.runs`."""
    made = []

    def one(number, run=None, **options):
        run = run or (lambda shard: make.runs.append((number, shard.shard)))
        instance = f"10.0.0.{number}@-@1"
        made.append(
            ShardedJob(zk_chroot, JOB, run, **{"shards": 8, "instance": instance, "session_timeout": 6 + len(made) / 1000, **options})
        )
        return made[-1]

    make = one
    make.runs = []
    yield one
    for found in made:
        found.close()


@pytest.fixture
def programs(zk_chroot):
    """Starts instances as processes."""
    made = []

    def one(number, failover="on"):
        process = Lines([sys.executable, "-c", PROGRAM, zk_chroot, f"10.0.0.{number}@-@1", failover], dict(os.environ), stdin=True)
        made.append(process)
        process.expect("ready")
        return process

    yield one
    for process in made:
        process.process.kill()
        process.end()
        print("\n".join(process.seen))


def say(process, line):
    process.process.stdin.write(f"{line}\n")
    process.process.stdin.flush()


def shares(raw):
    """What independent eyes see: instance → shards."""
    found = {}
    with contextlib.suppress(NoNodeError):  # they are being distributed
        for name in sorted(raw.get_children(f"{JOB}/sharding"), key=int):
            found.setdefault(raw.get(f"{JOB}/sharding/{name}/instance")[0].decode(), []).append(int(name))
    return found


@pytest.mark.parametrize(
    ("instances", "shards", "expected"),
    [
        (3, 8, [[0, 1, 6], [2, 3, 7], [4, 5]]),
        (3, 10, [[0, 1, 2, 9], [3, 4, 5], [6, 7, 8]]),
        (3, 2, [[0], [1], []]),
        (3, 9, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        (1, 3, [[0, 1, 2]]),
        (0, 8, []),
    ],
)
def test_average_shares(instances, shards, expected):
    names = [f"i{number}" for number in range(instances)]
    assert average(names, shards) == dict(zip(names, expected, strict=True))


def test_one_instance_runs_all_and_the_nodes_are_elasticjobs(make, raw):
    job = make(1)
    assert job.trigger(30) == list(range(8))
    assert make.runs == [(1, number) for number in range(8)]
    assert json.loads(raw.get(f"{JOB}/config")[0]) == {"failover": True, "jobName": "settlement", "shardingTotalCount": 8}
    assert raw.get_children(f"{JOB}/instances") == ["10.0.0.1@-@1"]
    assert raw.exists(f"{JOB}/instances/10.0.0.1@-@1").ephemeralOwner == job._keeper.client.session
    assert raw.get_children(f"{JOB}/servers") == ["10.0.0.1"]
    assert raw.get(f"{JOB}/leader/election/instance")[0] == b"10.0.0.1@-@1"
    assert shares(raw) == {"10.0.0.1@-@1": list(range(8))}
    assert raw.get_children(f"{JOB}/sharding/0") == ["instance"]
    assert raw.get(f"{JOB}/sharding/0")[0] == b""
    assert raw.exists(f"{JOB}/leader/sharding/necessary") is None


def test_an_instance_says_whose_it_is(make, raw, monkeypatch):
    monkeypatch.setenv("MQADMIN_APP", "billing")
    make(1)
    make(2, app="")

    def apps():
        paths = [f"{JOB}/instances/10.0.0.{number}@-@1" for number in (1, 2)]
        return all(map(raw.exists, paths)) and [json.loads(raw.get(path)[0]).get("app") for path in paths]

    assert wait_for(apps) == ["billing", None]


def test_shards_are_shared_out_anew_when_an_instance_comes_and_when_one_goes(make, raw):
    first = make(1)
    assert first.trigger(30) == list(range(8))
    second, third = make(2), make(3)
    wait_for(lambda: shares(raw) == {"10.0.0.1@-@1": [0, 1, 6], "10.0.0.2@-@1": [2, 3, 7], "10.0.0.3@-@1": [4, 5]})
    assert [job.trigger(30) for job in (first, second, third)] == [[0, 1, 6], [2, 3, 7], [4, 5]]
    leader = next(job for job in (first, second, third) if job.is_leader)
    assert leader is first
    first.close()  # the leader goes: the next one shares out
    wait_for(lambda: shares(raw) == {"10.0.0.2@-@1": [0, 1, 2, 3], "10.0.0.3@-@1": [4, 5, 6, 7]})
    assert sorted(second.trigger(30) + third.trigger(30)) == list(range(8))


def test_all_shares_change_in_one_transaction(make, raw):
    make(1).trigger(30)
    make(2).trigger(30)
    wait_for(lambda: set(shares(raw)) == {"10.0.0.1@-@1", "10.0.0.2@-@1"})
    written = {raw.exists(f"{JOB}/sharding/{number}/instance").mzxid for number in range(8)}
    assert len(written) == 1


def test_shards_are_shared_out_only_after_running_ones_have_ended(make, raw):
    begun, go = threading.Event(), threading.Event()

    def slow(_shard):
        begun.set()
        assert go.wait(60)

    first = make(1, slow)
    running = threading.Thread(target=first.trigger)
    running.start()
    assert begun.wait(30)
    assert json.loads(raw.get(f"{JOB}/sharding/0")[0])["running"] == "10.0.0.1@-@1"
    assert raw.get(f"{JOB}/sharding/0/running")[0] == b"10.0.0.1@-@1"
    second = make(2)
    wait_for(lambda: raw.exists(f"{JOB}/leader/sharding/necessary"))
    assert shares(raw) == {"10.0.0.1@-@1": list(range(8))}
    with pytest.raises(RegistryUnavailableError):
        second.trigger(0.2)
    go.set()
    running.join(60)
    wait_for(lambda: shares(raw) == {"10.0.0.1@-@1": [0, 1, 2, 3], "10.0.0.2@-@1": [4, 5, 6, 7]})
    wait_for(lambda: (2, 4) in make.runs)  # what was asked for meanwhile is done


def test_a_larger_number_of_shards_counts_from_the_instance_that_started_last(make, raw):
    first = make(1)
    first.trigger(30)
    second = make(2, shards=10)
    wait_for(lambda: shares(raw) == {"10.0.0.1@-@1": [0, 1, 2, 3, 4], "10.0.0.2@-@1": [5, 6, 7, 8, 9]})
    second.close()
    third = make(3, shards=2)
    wait_for(lambda: shares(raw) == {"10.0.0.1@-@1": [0], "10.0.0.3@-@1": [1], "": list(range(2, 10))})
    assert third.trigger(30) == [1]


def test_a_shard_that_fails_has_ended_and_the_others_run(make, raw, caplog):
    ran = []

    def run(shard):
        ran.append(shard.shard)
        if shard.shard == 2:
            raise ValueError("two")

    assert make(1, run, shards=4).trigger(30) == [0, 1, 2, 3]
    assert ran == [0, 1, 2, 3]
    assert "Shard 2 of settlement failed" in caplog.text
    assert raw.get(f"{JOB}/sharding/2")[0] == b""


def test_each_run_of_a_shard_has_a_larger_token(make):
    tokens = []
    job = make(1, lambda shard: tokens.append((shard.token, shard.held, shard.total)), shards=1)
    for _ in range(3):
        job.trigger(30)
    assert tokens == sorted(tokens)
    assert len(set(tokens)) == 3
    assert all(held and total == 1 for _token, held, total in tokens)


def test_after_expiry_an_instance_is_one_again_and_has_its_shards(zk_chroot, make, raw):
    job = make(1)
    job.trigger(30)
    expire(zk_chroot, job._keeper.client)
    wait_for(lambda: (stat := raw.exists(f"{JOB}/instances/10.0.0.1@-@1")) and stat.ephemeralOwner == job._keeper.client.session)
    assert job.trigger(30) == list(range(8))


def test_the_running_shard_of_a_dead_instance_is_run_by_an_idle_one(programs, raw):
    first, second = programs(1), programs(2)
    wait_for(lambda: shares(raw) == {"10.0.0.1@-@1": [0, 1], "10.0.0.2@-@1": [2, 3]})
    say(first, "trigger")
    first.expect("begins 0")
    first.signal(signal.SIGKILL)
    second.expect("begins 0 failover")
    assert raw.get(f"{JOB}/sharding/0/failover")[0] == b"10.0.0.2@-@1"
    assert shares(raw)["10.0.0.1@-@1"] == [0, 1]  # still: a shard runs
    say(second, "go")
    second.expect("ends 0 held")
    wait_for(lambda: shares(raw) == {"10.0.0.2@-@1": [0, 1, 2, 3]})
    assert raw.get_children(f"{JOB}/sharding/0") == ["instance"]
    assert not any("begins 1" in line for line in second.seen)  # it had not begun


def test_without_failover_the_shard_of_a_dead_instance_waits_for_the_next_time(programs, raw):
    first, second = programs(1, "off"), programs(2, "off")
    wait_for(lambda: shares(raw) == {"10.0.0.1@-@1": [0, 1], "10.0.0.2@-@1": [2, 3]})
    say(first, "trigger")
    first.expect("begins 0")
    first.signal(signal.SIGKILL)
    wait_for(lambda: shares(raw) == {"10.0.0.2@-@1": [0, 1, 2, 3]})
    assert not any("begins" in line for line in second.seen)
    assert raw.get(f"{JOB}/sharding/0")[0] == b""


def test_an_instance_frozen_past_its_session_learns_that_its_shard_was_taken_over(programs, raw):
    first, second = programs(1), programs(2)
    wait_for(lambda: shares(raw) == {"10.0.0.1@-@1": [0, 1], "10.0.0.2@-@1": [2, 3]})
    say(first, "trigger")
    first.expect("begins 0")
    old = raw.exists(f"{JOB}/sharding/0/running").czxid
    first.signal(signal.SIGSTOP)
    second.expect("begins 0 failover")
    assert raw.exists(f"{JOB}/sharding/0/running").czxid > old
    first.signal(signal.SIGCONT)
    wait_for(lambda: len(raw.get_children(f"{JOB}/instances")) == 2)
    say(first, "go")
    first.expect("ends 0 lost")
    assert json.loads(raw.get(f"{JOB}/sharding/0")[0])["running"] == "10.0.0.2@-@1"  # its end has ended nobody else's run
    say(second, "go")
    second.expect("ends 0 held")
    wait_for(lambda: raw.get(f"{JOB}/sharding/0")[0] == b"")


def test_closing_waits_for_the_shard_that_runs_and_begins_no_other(make, raw):
    begun, go, ran = threading.Event(), threading.Event(), []

    def slow(shard):
        begun.set()
        assert go.wait(60)
        ran.append(shard.shard)

    job = make(1, slow)
    answers = []
    running = threading.Thread(target=lambda: answers.append(job.trigger()))
    running.start()
    assert begun.wait(30)
    closing = threading.Thread(target=job.close)
    closing.start()
    go.set()
    closing.join(60)
    running.join(60)
    assert ran == [0]
    assert answers == [[0]]
    assert raw.get_children(f"{JOB}/instances") == []
    assert raw.get(f"{JOB}/sharding/0")[0] == b""
    with pytest.raises(RegistryClosedError):
        job.trigger(1)


@pytest.mark.parametrize(("path", "shards"), [("/jobs", 1), ("", 1), (JOB, 0)])
def test_what_makes_no_job_is_refused(zk_chroot, path, shards):
    with pytest.raises(ValueError, match=r"path of a job|one shard"):
        ShardedJob(zk_chroot, path, print, shards=shards)
