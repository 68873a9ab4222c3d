"""A fleet of application processes on the SDK, under a driver that changes, suspends, gates, shadows, kills, freezes and restarts.

At the end every message that was accepted has been received by every group; what came twice was delivered again and says so; each
sharding key was in order; every instance runs the last generation; stress traffic stayed apart. `MQADMIN_FLEET` is the number of
processes, `MQADMIN_FLEET_SECONDS` how long the driver is at it, `MQADMIN_FLEET_SEED` repeats a run's choices.
"""

import collections
import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from supervised import wait_for
from test_system_faults import TOPIC, Running

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

SOAK = "MQADMIN_SOAK" in os.environ
SIZE = int(os.environ.get("MQADMIN_FLEET", "50" if SOAK else "5"))
SECONDS = float(os.environ.get("MQADMIN_FLEET_SECONDS", "300" if SOAK else "12"))
SEED = int(os.environ.get("MQADMIN_FLEET_SEED", "0")) or secrets.randbelow(10**6)
WORKER = Path(__file__).with_name("sdk_fleet_worker.py")
GROUPS = {"billing": "orders", "stock": "orders", "steps_group": "steps"}


class Fleet:
    """The processes, and what they wrote."""

    def __init__(self, running, folder):
        self.running, self.folder = running, folder
        key = running.ok("POST", "applications/shop/keys", {})
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MQADMIN_")}
        self.env = kept | {
            "MQADMIN_ZOOKEEPER": running.env["ZOOKEEPER_HOSTS"],
            "MQADMIN_URL": running.url,
            "MQADMIN_APP": "shop",
            "MQADMIN_APP_KEY": key["key_id"],
            "MQADMIN_APP_SECRET": key["secret"],
            "MQADMIN_CACHE_DIR": str(folder / "cache"),
            "FLEET_PAUSE": str(0.01 * SIZE),
            "PYTHONHASHSEED": "0",
        }
        self.alive, self.started = {}, 0
        self.faulty, self.restarts = set(), 0  # who was killed or frozen; how often a server was restarted

    def start(self):
        name = f"w{self.started}"
        self.started += 1
        errors = (self.folder / f"{name}.err").open("w")
        self.alive[name] = subprocess.Popen([sys.executable, str(WORKER), name, str(self.folder)], env=self.env, stderr=errors)

    def lines(self):
        for path in sorted(self.folder.glob("*.log")):
            for line in path.read_text().splitlines():
                at, *words = line.split()
                yield path.stem, float(at), words

    def got(self, group):
        return {words[2] for _name, _at, words in self.lines() if words[0] == "got" and words[1] == group}

    def end(self):
        for process in self.alive.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        codes = {name: process.wait(120) for name, process in self.alive.items()}
        self.alive.clear()
        return codes


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    instance = Running(tmp_path_factory.mktemp("fleet") / "home")
    try:
        instance.ok("POST", "applications", {"name": "shop"})
        for name in ("k1", "k2"):
            instance.ok("POST", "clusters", {"name": name, "kind": "kafka", "address": "127.0.0.1:1"})
        for name, cluster in {"orders": "builtin", "shadow_orders": "builtin", "steps": "builtin", "elsewhere": "k1"}.items():
            instance.ok("POST", "topics", {**TOPIC, "name": name, "ordered": name == "steps"})
            instance.ok("POST", f"topics/{name}/approval", {"cluster": cluster}, person="OPERATOR")
        for name, topic in {**GROUPS, "shadow_billing": "shadow_orders"}.items():
            document = {"name": name, "application": "shop", "subscriptions": [{"topic": topic}], "reason": "test"}
            instance.ok("POST", "consumer-groups", document)
            instance.ok("POST", f"consumer-groups/{name}/approval", {}, person="OPERATOR")
        yield instance
    finally:
        instance.client.close()
        instance.supervisor.end()


def changes(running, fleet, choose):
    """What may happen next: each is one change, tolerant of what others have left."""
    stress = running.ok(
        "POST", "shadow-tasks", {"application": "shop", "task": "stress", "group": "billing", "topic": "orders"}, person="OPERATOR"
    )["id"]

    def ask(path, body):
        with contextlib.suppress(Exception):  # the web process may just have been killed
            running.call("POST", path, {"reason": "fleet", **body}, person="OPERATOR")

    def suspend():
        ask(f"consumer-groups/{choose.choice(list(GROUPS))}/suspension", {})

    def resume():
        for group in GROUPS:
            ask(f"consumer-groups/{group}/resumption", {})

    def move():
        ask("topics/elsewhere/moves", {"cluster": choose.choice(["k1", "k2"])})

    def gate():
        with contextlib.suppress(Exception):
            for one in running.call("GET", "gates?topic=elsewhere", person="OPERATOR").json().get("results", ()):
                ask(f"gates/{one['id']}/{choose.choice(['abandonment', 'promotion'])}", {})
        ask("gates", {"topic": "elsewhere", "cluster": choose.choice(["k1", "k2"]), "labels": {"zone": "a"}})

    def shadow():
        ask(f"shadow-tasks/{stress}/{choose.choice(['start', 'stop'])}", {"minutes": 5})

    def kill():
        name = choose.choice(sorted(fleet.alive))
        fleet.alive.pop(name).kill()
        fleet.faulty.add(name)
        fleet.start()

    def freeze():
        name = choose.choice(sorted(fleet.alive))
        process = fleet.alive[name]
        process.send_signal(signal.SIGSTOP)
        fleet.faulty.add(name)
        time.sleep(choose.choice([0.5, 6.5]))  # shorter and longer than a lease of five seconds
        process.send_signal(signal.SIGCONT)

    def restart(words):
        fleet.restarts += 1
        with contextlib.suppress(AssertionError, ProcessLookupError):  # it may be on its way back from the last time
            os.kill(running.pid(words), signal.SIGKILL)

    def restart_zookeeper():
        restart("ZooKeeperServerMain")

    def restart_web():
        restart("granian")

    def restart_registrar():
        restart("registrar")

    restarts = [restart_zookeeper, restart_web, restart_registrar]
    return [suspend, resume, resume, move, move, gate, shadow, kill, kill, freeze, *restarts]


def test_a_fleet_receives_all_that_was_accepted_whatever_happens_to_it(running, tmp_path):
    print(f"fleet of {SIZE}, {SECONDS:g} s, seed {SEED}")
    choose, fleet = random.Random(SEED), Fleet(running, tmp_path)
    try:
        for _ in range(SIZE):
            fleet.start()
        wait_for(lambda: all(fleet.got(group) for group in GROUPS), 90, "the fleet at work")
        possible, done = changes(running, fleet, choose), collections.Counter()
        first = choose.sample(possible, len(possible))  # each kind of change happens, however short the run is
        until = time.monotonic() + SECONDS
        while first or time.monotonic() < until:
            change = first.pop() if first else choose.choice(possible)
            change()
            done[change.__name__] += 1
            time.sleep(choose.uniform(0.2, 1.0))
        settle(running, fleet)
        # Everybody who lives runs the last generation of everything, and nobody else is there.
        for path in ("topics/elsewhere", "topics/orders", *(f"consumer-groups/{group}" for group in GROUPS)):
            told = running.ok("GET", f"{path}/applied?wait=applied&timeout=60s")
            assert told["waited"]["outcome"] == "reached", (path, told)
            if path != "topics/orders":  # who was started at the end has sent nothing
                wait_for(lambda path=path: online(running, path) == len(fleet.alive), 60, f"{len(fleet.alive)} instances of {path}")
        codes = fleet.end()
    finally:
        fleet.end()
    print(dict(done), "killed or frozen:", sorted(fleet.faulty), "restarts:", fleet.restarts)
    assert set(codes.values()) == {0}, codes
    judge(fleet)


def settle(running, fleet):
    """Let all be as it should be, send no more, and wait until everything has arrived."""

    def readily():
        """All resumed, and all ready: the web process may have been killed a moment ago, and asked while it ends or starts."""
        with contextlib.suppress(httpx.TransportError, KeyError, ValueError):
            answers = [
                running.call("POST", f"consumer-groups/{group}/resumption", {"reason": "the end"}, person="OPERATOR") for group in GROUPS
            ]
            return all(answer.status_code in (200, 409) for answer in answers) and running.ready()["missing"] == []
        return False

    wait_for(readily, 90, "readiness")
    (fleet.folder / "quiet").touch()
    for group, topic in GROUPS.items():
        wait_for(lambda group=group, topic=topic: not missing(fleet, group, topic), 180, f"{group} to have received all of {topic}")


def missing(fleet, group, topic):
    """What was accepted and the group has not received."""
    tried = {words[1]: len(words) > 2 for _name, _at, words in fleet.lines() if words[0] == "try"}
    sent = {words[1] for _name, _at, words in fleet.lines() if words[0] == "sent"}
    return {body for body in sent if tried[body] == (topic == "steps")} - fleet.got(group)


def online(running, path):
    kind, _, name = path.partition("/")
    node = {"topics": "/zms/topic/", "consumer-groups": "/zms/consumergroup/"}[kind] + name
    return len(running.ok("GET", f"instances?path={node}&online=true&limit=500")["results"])


def judge(fleet):
    """Read what everybody wrote."""
    tried, keys, sent, leaks = set(), {}, {}, 0
    got = collections.defaultdict(list)  # of a group and a body: when, by whom, in which attempt
    for _name, _at, words in fleet.lines():
        match words[0]:
            case "try":
                tried.add(words[1])
                keys |= {words[1]: words[2]} if len(words) > 2 else {}
            case "sent":
                sent[words[1]] = words[2]
            case "shadow":
                assert words[2].startswith("shadow-"), words
            case "ended":
                leaks += int(words[1])
    for name, at, words in fleet.lines():
        if words[0] == "got":
            _, group, body, number, attempt = words
            assert body in tried, f"{name} received what nobody sent: {words}"
            assert sent.get(body, number) == number, f"{body} was stored twice: {sent[body]} and {number}"
            got[group, body].append((at, name, int(attempt)))
    again = {key: found for key, found in got.items() if len(found) > 1}
    # A later attempt says so. What came again in the same one was in hands that lost it: killed, frozen, or without an answer.
    same = {key: found for key, found in again.items() if len({attempt for _at, _name, attempt in found}) < len(found)}
    unexplained = {key: found for key, found in same.items() if not (fleet.restarts or {name for _at, name, _ in found} & fleet.faulty)}
    print(f"{len(sent)} accepted, {len(got)} received by groups, {len(again)} more than once, {len(same)} of them in one attempt")
    assert sent
    assert not unexplained, unexplained
    assert {group for group, _body in got} == set(GROUPS)
    assert leaks == 0, "stress traffic came to live handlers, or the other way round"
    first = {body: min(at for at, _name, _attempt in found) for (group, body), found in got.items() if group == "steps_group"}
    for key in set(keys.values()):
        mine = sorted((body for body in first if keys[body] == key), key=lambda body: int(body.rpartition("-")[2]))
        assert mine == sorted(mine, key=first.__getitem__), f"{key} was not in order"
