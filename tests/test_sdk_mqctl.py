"""mqctl as a process against a deployment of its own: every command, what it prints, and the code that it ends with."""

import json
import re
import shlex
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from kazoo.client import KazooClient
from mqctl_world import MQCTL, admin, good, house, mqctl, orders  # noqa: F401 - fixtures
from quickstart import FENCE, Block, Shell
from registry_world import CHECKOUT, wait_for
from zookeeper_server import ZooKeeperServer

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def send(house, topic, *bodies, **fields):  # noqa: F811
    answer = good(house.admin.post(f"topics/{topic}/messages", json={"messages": [{"body": body, **fields} for body in bodies]}))
    return [message["id"] for message in answer["messages"]]


def bury(house, *bodies, error="no stock"):  # noqa: F811
    """Dead letters of order_bill_group."""
    ids = send(house, "order_topic", *bodies, tag="paid")
    found = good(house.admin.post("consumer-groups/order_bill_group/pull", json={"max": 100, "wait_ms": 10_000, "consumer": "w"}))
    acks = [
        {"lease": found["lease"], "id": one["id"], **({"status": "dead", "error": error} if one["id"] in ids else {"status": "succeeded"})}
        for one in found["messages"]
    ]
    assert set(ids) <= {one["id"] for one in found["messages"]}
    good(house.admin.post("consumer-groups/order_bill_group/acks", json={"acks": acks}))
    return ids


@pytest.fixture
def manifest(orders, tmp_path):  # noqa: F811
    """A manifest with a topic that is not there, under a name of its own."""
    name = f"made_{uuid.uuid4().hex[:8]}"
    file = tmp_path / "manifest.yaml"
    file.write_text(
        f"""
topics:
  - {{name: {name}, application: order-service, cluster: builtin, expected_rate: 10, message_bytes: 100}}
---
consumer_groups:
  - name: {name}_group
    application: order-service
    subscriptions: [{{topic: {name}, tags: paid || sent}}]
"""
    )
    return file, name


# --- topics, groups ---------------------------------------------------------------------------------------------------


def test_topics_are_listed_and_shown(mqctl):  # noqa: F811
    lines = mqctl("topics", "list", "--application", "order-service").lines
    assert lines[0].split() == ["NAME", "APPLICATION", "CLUSTER", "STATE", "GENERATION", "PUBLISHED", "APPLIED"]
    assert next(line for line in lines if line.startswith("order_topic")).split()[:4] == [
        "order_topic",
        "order-service",
        "builtin",
        "active",
    ]
    assert {row["name"] for row in mqctl.json("topics", "list", "--cluster", "builtin")} >= {"order_topic", "mail_topic"}
    assert len(mqctl.json("topics", "list", "-n", 1)) == 1
    said = mqctl("topics", "show", "order_topic").out
    assert "order_bill_group" in said
    assert "published, generation" in said


def test_options_may_stand_before_the_command_as_well(mqctl):  # noqa: F811
    assert json.loads(mqctl("-o", "json", "topics", "show", "order_topic").out)["name"] == "order_topic"


def test_what_is_not_there_is_5_what_is_not_allowed_4_and_what_cannot_be_6(orders, mqctl, admin):  # noqa: F811
    assert "[not_found]" in mqctl("topics", "show", "nothing", code=5).err
    assert mqctl.but(MQADMIN_TOKEN="mq_wrong")("topics", "list", code=4).err.startswith("mqctl: ")
    assert "[forbidden]" in mqctl("apply", "-y", "-r", "x", "-", stdin="topics: []", code=4).err
    again = ("topics", "create", "order_topic", "-a", "order-service", "--rate", 1, "--bytes", 1, "-r", "again")
    assert "[duplicate_name]" in mqctl(*again, code=6).err
    problem = json.loads(mqctl.process(*again, "-o", "json", code=6).err)
    assert (problem["status"], problem["code"]) == (409, "duplicate_name")


def test_a_topic_is_applied_for_and_a_dry_run_changes_nothing(orders, mqctl):  # noqa: F811
    name = f"asked_{uuid.uuid4().hex[:8]}"
    asked = ("topics", "create", name, "-a", "order-service", "--rate", 5, "--bytes", 100, "-r", "try")
    assert name in mqctl(*asked, "--dry-run").out
    mqctl("topics", "show", name, code=5)
    assert mqctl.json(*asked)["state"] == "pending"


def test_a_group_is_suspended_and_resumed_and_the_change_waited_for(mqctl):  # noqa: F811
    done = mqctl("groups", "suspend", "order_bill_group", "-r", "bills are wrong", "--wait", "published")
    assert "bills are wrong" in done.out
    assert "pending" not in done.out  # the thing as it is after waiting
    assert "published after" in done.err
    assert "suspended" in mqctl("groups", "list", "--suspended").out
    assert mqctl.json("groups", "resume", "order_bill_group", "-w", "published")["suspended"] is False
    assert "order_topic [created || paid]" in mqctl("groups", "show", "order_bill_group").out


def test_a_topic_moves_and_who_does_not_follow_in_time_is_named_with_8(orders, mqctl):  # noqa: F811
    client = str(uuid.uuid4())
    good(orders.admin.post("clients", json={"role": "producer", "topic": "mail_topic", "id": client, "name": "pod-7"}))
    good(orders.admin.post(f"clients/{client}/heartbeat", json={"generation": 1, "state": "running"}))
    send(orders, "mail_topic", "waits in the store, which is therefore not drained", delay_ms=3_600_000)
    planned = mqctl("topics", "move", "mail_topic", "kafka-b", "-r", "try", "--dry-run")
    assert "mail_topic" in planned.out
    late = mqctl("topics", "move", "mail_topic", "kafka-b", "-r", "try", "--accept-warnings", "-w", "applied", "--timeout", "1s", code=8)
    assert "runs generation 1" in late.err
    assert mqctl.json("topics", "show", "mail_topic")["cluster"] == "kafka-b"
    mqctl("applied", "topic", "mail_topic", "-w", "applied", "--timeout", "300ms", code=8)
    good(orders.admin.post(f"clients/{client}/heartbeat", json={"generation": 2, "state": "running"}))
    said = mqctl("applied", "topic", "mail_topic", "-w", "applied").out
    assert "1 applied" in said
    rows = mqctl.json("instances", "list", "--topic", "mail_topic")
    assert [(row["applied_generation"], row["online"]) for row in rows] == [(2, True)]
    assert "applied" in mqctl("instances", "show", rows[0]["id"]).out
    good(orders.admin.delete(f"clients/{client}"))
    assert "builtin (mail_topic, until it is empty" in mqctl("topics", "show", "mail_topic").out
    assert "[not_draining]" in mqctl("topics", "drained", "mail_topic", "kafka-b", "-r", "empty", code=6).err
    assert mqctl.json("topics", "drained", "mail_topic", "builtin", "-r", "its messages may stay")["draining"] == []
    assert mqctl("instances", "list", "--topic", "mail_topic").err.strip() == "No instances."


# --- messages -----------------------------------------------------------------------------------------------------------


def test_a_message_is_sent_found_and_its_status_told(mqctl, tmp_path):  # noqa: F811
    mine = str(uuid.uuid4())
    sent = mqctl.json("send", "order_topic", '{"id": 1}', "--key", mine, "--tag", "shipped", "-H", "trace=1", "--id", mine)
    again = mqctl.json("send", "order_topic", '{"id": 1}', "--key", mine, "--tag", "shipped", "-H", "trace=1", "--id", mine)
    assert (again["id"], sent["duplicate"], again["duplicate"]) == (sent["id"], False, True)
    (found,) = mqctl.json("messages", "list", "order_topic", "--key", mine, "--since", "10m")
    assert found["id"] == sent["id"]
    said = mqctl("messages", "show", sent["id"])
    assert '{"id": 1}' in said.out
    assert next(line for line in said.lines if line.startswith("order_bill_group")).split()[1] == "not_subscribed"
    assert mqctl("messages", "show", sent["id"], "--body").bytes == b'{"id": 1}'
    assert "sent" in mqctl("messages", "trace", sent["id"]).out
    (tmp_path / "bytes").write_bytes(b"\xff\x00\x1b[31m")
    raw = mqctl.json("send", "order_topic", "-f", tmp_path / "bytes", "-d", "0s")
    assert mqctl("messages", "show", raw["id"], "--body").bytes == b"\xff\x00\x1b[31m"
    assert "base64:" in mqctl("messages", "show", raw["id"]).out
    assert mqctl.json("send", "order_topic", "later", "--delay", "2h")["state"] == "delayed"
    assert "not_on_builtin_store" in mqctl("send", "mail_topic", "x", code=6).err


def test_each_line_is_a_message(orders, mqctl):  # noqa: F811
    key = str(uuid.uuid4())
    done = mqctl("send", "order_topic", "--lines", "--key", key, "--tag", "bulk", stdin="".join(f"line {n}\n" for n in range(1203)))
    assert "1,203 sent to order_topic." in done.err
    rows = mqctl.json("messages", "list", "order_topic", "--key", key, "-n", 2000)
    assert len({row["id"] for row in rows}) == 1203
    assert mqctl("messages", "show", rows[0]["id"], "--body").out == "line 1202"


def test_tail_shows_what_comes_as_it_comes_and_ends_by_itself(orders, mqctl):  # noqa: F811
    key = str(uuid.uuid4())
    send(orders, "order_topic", "before", key=key, tag="tail")
    with mqctl.running("tail", "order_topic", "-n", 1, "--key", key, "-i", "100ms") as tail:
        assert "before" in tail.expect(f"key={key}")
        send(orders, "order_topic", "one", "t\x1bwo", key=key, tag="tail")
        send(orders, "order_topic", "of another key", tag="tail")
        assert "one" in tail.expect(f"key={key}")
        assert "t\\x1bwo" in tail.expect(f"key={key}")
        (delayed,) = send(orders, "order_topic", "three", key=key, tag="tail")
        line = tail.expect(f"key={key}")
        assert str(delayed) in line
        assert "tag=tail" in line
        tail.process.send_signal(2)
        assert tail.process.wait(20) == 130
    assert not [line for line in tail.seen if "another key" in line or "Traceback" in line]
    rows = [json.loads(line) for line in mqctl("tail", "order_topic", "-n", 3, "--key", key, "--no-follow", "-o", "json").lines]
    assert [row["body"] for row in rows] == ["one", "t\x1bwo", "three"]
    assert mqctl("tail", "order_topic", "-n", 0, "--for", "300ms").out == ""


def test_tail_shows_all_of_many_senders_once(orders, mqctl):  # noqa: F811
    """Ids are given before they are committed: what appears behind a later one is shown as well, and nothing twice."""
    key, sent = str(uuid.uuid4()), []

    def shown(tail):
        return [json.loads(line)["id"] for line in list(tail.seen) if line.startswith("{")]

    def one(number):
        sent.extend(send(orders, "order_topic", str(number), key=key, tag="many"))

    with mqctl.running("tail", "order_topic", "-n", 0, "--key", key, "-i", "20ms", "--no-bodies", "-o", "json") as tail:
        while not shown(tail):  # it has begun when it shows the first one that came after it
            send(orders, "order_topic", "first", key=key, tag="many")
            time.sleep(0.2)
        with ThreadPoolExecutor(4) as senders:
            list(senders.map(one, range(120)))
        wait_for(lambda: set(sent) <= set(shown(tail)), what="all to be shown")
        assert len(shown(tail)) == len(set(shown(tail)))


def test_lag_is_shown_and_a_limit_that_is_passed_is_3(orders, mqctl):  # noqa: F811
    send(orders, "order_topic", "a", "b", tag="created")
    row = next(row for row in mqctl.json("lag") if row["group"] == "order_bill_group")
    assert row["counts"]["waiting"] >= 2
    assert "order_bill_group" in mqctl("lag", "--topic", "order_topic").out
    late = mqctl("lag", "order_bill_group", "--max-messages", 1, code=3)
    assert "messages behind, more than 1" in late.err
    mqctl("lag", "order_bill_group", "--max-messages", 1_000_000, "--max-seconds", "1d")
    mqctl("lag", "nothing", code=5)


# --- dead letters ---------------------------------------------------------------------------------------------------------


def test_dead_letters_are_listed_by_cause_and_redriven_with_a_worker(orders, mqctl):  # noqa: F811
    key = f"k{uuid.uuid4().hex[:8]}"
    ids = bury(orders, "a", "b", "c", error=f"no stock in {key}")
    rows = mqctl.json("dead", "list", "order_bill_group", "--reason-contains", key)
    assert {row["id"] for row in rows} == set(ids)
    assert "no stock in" in mqctl("dead", "causes", "order_bill_group").out
    assert "Nobody can be asked here" in mqctl("dead", "redrive", "order_bill_group", "--reason-contains", key, "-r", "fixed", code=2).err
    planned = mqctl.json("dead", "redrive", "order_bill_group", "--reason-contains", key, "-r", "fixed", "--dry-run")
    assert planned["progress"]["total"] == 3
    assert len(mqctl.json("dead", "list", "order_bill_group", "--reason-contains", key)) == 3
    # So slowly that a worker does it, in several chunks.
    done = mqctl("dead", "redrive", "order_bill_group", "--reason-contains", key, "-r", "fixed", "-y", "--rate", 20)
    assert "3 of 3 done, 0 failed" in done.err
    assert mqctl("dead", "list", "order_bill_group", "--reason-contains", key).err.strip() == "No dead letters."
    one = mqctl("dead", "redrive", "order_bill_group", ids[0], "-r", "once more", code=1)
    assert "[not_dead]" in one.err
    (newest, *_) = mqctl.json("operations", "list")
    assert newest["state"] in {"partial", "failed"}
    assert "[not_dead]" in mqctl("operations", "show", newest["id"]).out
    assert "not_dead" in mqctl("operations", "wait", newest["id"], code=1).err


# --- manifests ------------------------------------------------------------------------------------------------------------


def test_a_manifest_is_planned_compared_applied_and_then_the_same(admin, manifest, tmp_path):  # noqa: F811
    file, name = manifest
    assert "2 to create, 0 to change, 0 the same, 0 refused." in admin("plan", file).err
    admin("plan", file, "--exit-code", code=3)
    lines = admin("diff", file, code=3).lines
    assert f"+++ topics/{name}" in lines
    assert "+expected_rate: 10" in lines
    assert "Nobody can be asked here" in admin("apply", file, "-r", "made", code=2).err
    done = admin("apply", file, "-r", "made", "--yes")
    assert "2 of 2 done" in done.err
    assert admin.json("topics", "show", name)["state"] == "active"
    assert "Nothing to do: 2 are the same." in admin("apply", file, "-r", "made", "--yes").err
    admin("diff", file)
    admin("plan", file, "--exit-code")
    file.write_text(file.read_text().replace("paid || sent", "paid"))
    lines = [line for line in admin("diff", file, code=3).lines if "tags" in line]
    assert lines == ["-  tags: paid || sent", "+  tags: paid"]
    plan = admin.json("plan", file)
    assert (plan["differs"], plan["same"], plan["items"][0]["changes"].keys()) == (1, 1, {"subscriptions"})
    admin("apply", file, "-r", "changed", "-y")
    assert "paid]" in admin("groups", "show", f"{name}_group").out
    (tmp_path / "all.yaml").write_text(admin("export").out)
    admin("diff", tmp_path / "all.yaml")
    assert name in {topic["name"] for topic in admin.json("export")["topics"]}


def test_what_a_manifest_may_not_is_refused_before_anything_is_done(admin, manifest):  # noqa: F811
    file, name = manifest
    file.write_text(file.read_text() + "---\ntopics: [{name: other, application: nobody, cluster: builtin}]\n")
    said = admin("apply", file, "-r", "made", "-y", code=1)
    assert "topics/other: There is no application “nobody”" in said.err
    admin("topics", "show", name, code=5)
    partial = admin("apply", file, "-r", "made", "-y", "--skip-refused", code=1)
    assert "2 of 3 done, 1 failed" in partial.err
    assert "topics/other" in partial.err
    assert admin.json("topics", "show", name)["state"] == "active"
    assert "neither YAML nor JSON" in admin("plan", "-", stdin="a: [", code=2).err
    assert "unknown" in admin("plan", "-", stdin="tpics: []", code=1).err.lower()


# --- releases, shadow groups -------------------------------------------------------------------------------------------------


def test_a_release_is_shown_and_rolled_back_to(admin, manifest):  # noqa: F811
    file, name = manifest
    admin("apply", file, "-r", "made", "-y")
    file.write_text(file.read_text().replace("paid || sent", "sent"))
    admin("apply", file, "-r", "changed", "-y")
    newest, first = admin.json("releases", "list", "--group", f"{name}_group")
    assert "+ mqadmin.subscriptions=" in admin("releases", "show", newest["id"]).out
    planned = admin("releases", "rollback", first["id"], "-r", "back", "--dry-run")
    assert "paid || sent" in planned.out
    assert len(admin.json("releases", "list", "--group", f"{name}_group")) == 2
    assert admin.json("releases", "rollback", first["id"], "-r", "back", "--yes")["kind"] == "rollback"
    assert admin.json("groups", "show", f"{name}_group")["subscriptions"] == [{"topic": name, "tags": "paid || sent"}]
    latest = admin.json("releases", "list", "--group", f"{name}_group")[0]
    assert "[already_latest]" in admin("releases", "rollback", latest["id"], "-r", "back", "-y", code=6).err


def test_a_shadow_group_goes_on_and_off(mqctl):  # noqa: F811
    task = f"stress-{uuid.uuid4().hex[:6]}"
    made = mqctl.json("shadow", "create", task, "order_bill_group", "order_topic", "-a", "order-service")
    assert made["enabled"] is False
    on = mqctl.json("shadow", "on", f"{task}/order_bill_group", "--lease", "20m", "-r", "stress test", "--wait", "published")
    assert on["enabled"] is True
    assert task in mqctl("shadow", "list", "--on").out
    assert mqctl.json("shadow", "off", made["id"], "-r", "enough")["enabled"] is False
    mqctl("shadow", "on", made["id"], "-r", "stress test")
    assert mqctl.json("shadow", "off", "--task", task, "-r", "enough", "-y")["stopped"] == 1
    assert mqctl.json("shadow", "list", "--task", task)[0]["enabled"] is False
    mqctl("shadow", "on", "nothing/nothing", "-r", "x", code=5)


# --- watch ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def raw(zk_chroot):
    """An independent client on a chroot of its own."""
    client = KazooClient(hosts=zk_chroot)
    client.start(timeout=15)
    yield client
    client.stop()
    client.close()


def test_watch_tells_created_changed_deleted_decoded(raw, zk_chroot, tmp_path, mqctl):  # noqa: F811
    raw.create("/a/topic", b"clusterName=one\nnote=\\u4e2d\nmqadmin.generation=1\n", makepath=True)
    program = mqctl.but(MQADMIN_URL=None, MQADMIN_ZOOKEEPER=zk_chroot)
    with program.running("watch", "/a") as watch:
        watch.expect("exists   /a/topic")
        watch.expect("note=中")
        raw.set("/a/topic", b"clusterName=two\nnote=\\u4e2d\nmqadmin.generation=2\n")
        assert "version 1" in watch.expect("changed  /a/topic")
        assert watch.expect("-").strip() == "- clusterName=one"
        assert watch.expect("+").strip() == "+ clusterName=two"
        raw.create("/a/topic/10.0.0.1||DEFAULT_PRODUCER||x||y", b'{"app":"order-service","generation":1}', ephemeral=True)
        line = watch.expect("created  /a/topic/10.0.0.1")
        assert "ephemeral" in line
        assert "1 children of /a/topic" in line
        watch.expect('app: "order-service"')
        raw.delete("/a/topic/10.0.0.1||DEFAULT_PRODUCER||x||y")
        assert "0 children of /a/topic" in watch.expect("deleted  /a/topic/10.0.0.1")
        raw.create("/a/bytes", b"\xff\x00\x1b")
        watch.expect("ff 00 1b")
        raw.create("/b", b"outside")
        raw.delete("/a", recursive=True)
        watch.expect("deleted  /a")
        raw.create("/a", b"again")
        watch.expect("created  /a")
        watch.process.send_signal(2)
        assert watch.process.wait(20) == 130
    assert not [line for line in watch.seen if "/b" in line.split("(")[0].split() or "Traceback" in line]


def test_watch_in_json_ends_after_so_many_and_looks_no_deeper_than_it_is_told(raw, zk_chroot, mqctl):  # noqa: F811
    raw.create("/a/topic", b"k=1\n", makepath=True)
    program = mqctl.but(MQADMIN_ZOOKEEPER=zk_chroot)
    with program.running("watch", "/a", "--depth", 1, "--no-existing", "-n", 2, "-o", "json") as watch:
        watch.expect("watching /a")
        raw.create("/a/topic/deep", b"")
        raw.set("/a/topic", b"k=2\n")
        changed = json.loads(watch.expect("changed"))
        assert (changed["path"], changed["diff"]) == ("/a/topic", ["- k=1", "+ k=2"])
        assert (changed["before"]["value"], changed["now"]["value"], changed["now"]["stat"]["version"]) == ({"k": "1"}, {"k": "2"}, 1)
        raw.delete("/a/topic", recursive=True)
        deleted = json.loads(watch.expect("deleted"))
        assert (deleted["path"], deleted["parent"]) == ("/a/topic", {"path": "/a", "children": 0})
        assert watch.process.wait(20) == 0
    assert [json.loads(line)["event"] for line in watch.seen if line.startswith("{")] == ["changed", "deleted"]
    assert program("watch", "/nothing", "--for", "300ms", "-o", "json").out.count("missing") == 1


def test_watch_finds_what_changed_while_the_connection_was_lost(tmp_path, mqctl):  # noqa: F811
    server = ZooKeeperServer(tmp_path / "zk").start()
    try:
        raw = KazooClient(hosts=server.hosts)
        raw.start(timeout=15)
        raw.create("/a/one", b"k=1\n", makepath=True)
        raw.create("/a/two", b"k=1\n")
        with mqctl.but(MQADMIN_ZOOKEEPER=server.hosts).running("watch", "/a", "--no-existing") as watch:
            watch.expect("watching /a")
            watch.signal(signal.SIGSTOP)  # it sees nothing until its session is over
            raw.set("/a/one", b"k=2\n")
            raw.delete("/a/two")
            raw.create("/a/three", b"k=3\n")
            server.kill()
            server.start()
            watch.signal(signal.SIGCONT)
            watch.expect("ZooKeeper was lost")
            assert watch.expect("/a/").split()[1:3] == ["deleted", "/a/two"]
            watch.expect("changed  /a/one")
            watch.expect("+ k=2")
            watch.expect("created  /a/three")
        raw.stop()
        raw.close()
    finally:
        server.kill()


def test_watch_shows_what_mqadmin_publishes(orders, mqctl):  # noqa: F811
    with mqctl.running("watch", "/zms/consumergroup/order_bill_group", "--no-existing", "--depth", 0) as watch:
        watch.expect("watching")
        mqctl("groups", "suspend", "order_bill_group", "-r", "watch")
        mqctl("groups", "resume", "order_bill_group")
        mqctl("groups", "suspend", "order_bill_group", "-r", "watch")
        watch.expect("+ suspend=true")
        mqctl("groups", "resume", "order_bill_group")
        watch.expect("+ suspend=false")


# --- doctor -----------------------------------------------------------------------------------------------------------------


def checks(found):
    return {one["name"]: (one["status"], one["detail"]) for one in found}


def test_doctor_says_what_is_right_and_what_is_wrong(orders, mqctl):  # noqa: F811
    found = checks(mqctl.json("doctor", "--topic", "order_topic", "--group", "order_bill_group", code=3))
    assert found["credential"][0] == "ok"
    assert found["clock"][0] == "ok"
    assert found["same tree"] == ("ok", "the control plane publishes here")
    assert found["registrars"] == ("ok", "1 alive, 1 watching")
    assert found["topic order_topic"][0] == "ok"
    assert found["topic order_topic: node"][0] == "ok"
    assert found["group order_bill_group: cluster builtin"][0] == "ok"
    # Nobody started a storekeeper here: that is what is wrong.
    assert {name.rpartition(": ")[2] for name, (status, _detail) in found.items() if status == "error"} == {"storekeeper"}


def test_doctor_finds_a_broker_that_is_not_reached_and_a_thing_that_is_not_there(mqctl):  # noqa: F811
    found = mqctl.json("doctor", "--topic", "mail_topic", "--topic", "nothing", code=3)
    assert checks(found)["topic mail_topic: cluster kafka-b"][0] == "error"
    assert "127.0.0.1:9" in checks(found)["topic mail_topic: cluster kafka-b"][1]
    assert checks(found)["topic nothing"][0] == "error"


def test_doctor_looks_for_the_proxies_of_a_rocketmq_cluster(orders, mqctl, raw, zk_chroot):  # noqa: F811
    raw.create("/zms/cluster/rmq-a", b"bootAddr=127.0.0.1:9876\nbrokerType=rocketmq\nserverIps=\n", makepath=True)
    raw.create("/zms/topic/order_topic", b"clusterName=rmq-a\ntype=topic\n", makepath=True)
    program = mqctl.but(MQADMIN_ZOOKEEPER=zk_chroot)
    name = "topic order_topic: cluster rmq-a"
    found = checks(program.json("doctor", "--topic", "order_topic", code=3))
    assert found[name] == ("error", "rocketmq: its node has no mqadmin.proxyAddr")
    raw.set("/zms/cluster/rmq-a", b"bootAddr=127.0.0.1:9876\nbrokerType=rocketmq\nserverIps=\nmqadmin.proxyAddr=127.0.0.1:9\n")
    found = checks(program.json("doctor", "--topic", "order_topic", code=3))
    assert found[name][0] == "error"
    assert "127.0.0.1:9:" in found[name][1]


def test_doctor_finds_wrong_addresses_credentials_and_trees(orders, mqctl, raw, zk_chroot):  # noqa: F811
    found = checks(mqctl.but(MQADMIN_TOKEN="mq_wrong", MQADMIN_ZOOKEEPER="127.0.0.1:9").json("doctor", code=3))
    assert "wrong_credentials" in found["credential"][1]
    assert found["ZooKeeper 127.0.0.1:9"][0] == "error"
    found = mqctl.but(MQADMIN_URL="http://127.0.0.1:9", MQADMIN_ZOOKEEPER=zk_chroot).json("doctor", code=3)
    assert checks(found)["control plane http://127.0.0.1:9"][0] == "error"
    assert checks(found)["tree"] == ("error", f"nothing of mqadmin stands below {zk_chroot[zk_chroot.index('/') :]}")
    raw.create("/zms/topic", makepath=True)
    raw.create("/mqadmin/owner", b'{"deployment":"another","environment":"prod"}', makepath=True)
    found = checks(mqctl.but(MQADMIN_ZOOKEEPER=zk_chroot).json("doctor", code=3))
    assert found["same tree"][0] == "error"
    assert "✗ same tree" in mqctl.but(MQADMIN_ZOOKEEPER=zk_chroot)("doctor", code=3).out


# --- tools ------------------------------------------------------------------------------------------------------------------


def test_an_applications_key_sends_and_reads_its_own_things_and_no_more(orders, mqctl):  # noqa: F811
    key = good(orders.admin.post("applications/order-service/keys", json={"name": "test"}))
    program = mqctl.but(MQADMIN_TOKEN=None, MQADMIN_APP_KEY=key["key_id"], MQADMIN_APP_SECRET=key["secret"])
    assert program.json("send", "order_topic", "by key", "-k", "a b&c")["state"] == "accepted"
    assert {row["application"] for row in program.json("topics", "list")} == {"order-service"}
    assert "[forbidden]" in program("topics", "move", "order_topic", "kafka-b", "-r", "x", code=4).err
    assert checks(program.json("doctor", code=3))["credential"][0] == "ok"
    wrong = program.but(MQADMIN_APP_SECRET="wrong")
    assert "[wrong_credentials]" in wrong("topics", "list", code=4).err


def test_any_request_can_be_made(mqctl):  # noqa: F811
    assert mqctl.json("api", "GET", "me?fields=username") == {"username": "operator"}
    assert mqctl.json("api", "get", "/api/v1/topics/order_topic?fields=name") == {"name": "order_topic"}
    cluster = json.loads(
        mqctl("api", "POST", "clusters?dry_run=true", "-f", "-", stdin='{"name": "x", "kind": "kafka", "address": "h:1"}').out
    )
    assert cluster["dry_run"] is True
    assert "[precondition_required]" in mqctl("api", "PATCH", "clusters/kafka-b", "-d", "{}", code=6).err
    mqctl("api", "PATCH", "clusters/kafka-b?dry_run=true", "-d", '{"description": "x"}', "-H", "If-Match=*")


def test_a_shell_completes_commands_and_names(mqctl):  # noqa: F811
    for shell in ("bash", "zsh", "fish"):
        assert "_MQCTL_COMPLETE" in mqctl("completion", shell).out

    def complete(words):
        environment = {"_MQCTL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
        return {line.partition(",")[2] for line in mqctl.but(**environment).process().lines}

    assert complete("mqctl topics ") == {"create", "drained", "list", "move", "show"}
    assert complete("mqctl topics show order_t") == {"order_topic"}
    assert complete("mqctl topics list --output ") == {"table", "json"}


def test_login_makes_a_profile_that_only_its_owner_reads(orders, mqctl, tmp_path):  # noqa: F811
    token, file = orders.people["MQADMIN_OPERATOR_TOKEN"], tmp_path / "etc" / "config.toml"
    program = mqctl.but(MQADMIN_URL=None, MQADMIN_TOKEN=None, MQADMIN_CONFIG=str(file))
    program("login", orders.base, stdin="mq_wrong\n", code=4)
    assert not file.exists()
    assert "operator at" in program("login", orders.base, "--name", "here", "-z", orders.zookeeper, stdin=f"{token}\n").err
    assert file.stat().st_mode & 0o777 == 0o600
    assert program.json("topics", "show", "order_topic", "--profile", "here")["name"] == "order_topic"
    assert program.json("topics", "show", "order_topic")["name"] == "order_topic"
    assert "has a profile here already" in program("login", orders.base, "--name", "here", stdin=token, code=2).err
    file.chmod(0o644)
    assert "chmod 600" in program("topics", "list", code=2).err


def test_a_reader_that_has_enough_is_no_error(orders, mqctl):  # noqa: F811
    import subprocess

    send(orders, "order_topic", *("x" * 2000 for _ in range(200)), key="pipe")
    line = f"{MQCTL[0]} -m mqadmin_sdk.cli messages list order_topic -n 200 -o json | head -n 1"
    done = subprocess.run(["bash", "-c", line], env=mqctl.environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "["
    assert "Traceback" not in done.stderr


def test_the_page_of_mqctl_does_what_it_says(orders, mqctl, admin, tmp_path):  # noqa: F811
    """docs/mqctl.md, typed as it stands; the administrator's token, since a manifest is applied."""
    path = tmp_path / "bin" / "mqctl"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {shlex.join(MQCTL)} "$@"\n')
    path.chmod(0o755)
    shell = Shell(tmp_path, admin.environment | {"PATH": f"{path.parent}:{admin.environment['PATH']}"})
    printed = []
    try:
        for kind, text in FENCE.findall((CHECKOUT / "docs" / "mqctl.md").read_text()):
            if kind == "bash":
                printed = shell.type(text)
            elif kind == "text":
                rest = iter(printed)
                for pattern in Block(kind, text).patterns:
                    assert any(re.fullmatch(f"{pattern}.*", line) for line in rest), (
                        f"the page promises {pattern!r}; printed was:\n" + "\n".join(printed)
                    )
    finally:
        shell.close()
