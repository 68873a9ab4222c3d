"""`make demo`: fill a running instance with life through its public interfaces only, the REST API and the SDK's program; Ctrl-C ends it.

Three applications, a dozen topics, twenty groups; producers and consumers in processes of their own, one consumer that fails now and then,
and unpaid orders that time out as delayed messages.
"""

import multiprocessing
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import quote

import httpx

TOPICS = {
    "order-service": ["order_topic", "order_refund_topic", "order_timeout_topic", "coupon_topic", "coupon_expire_topic"],
    "pay-service": ["pay_result_topic", "pay_notify_topic", "pay_settle_topic", "risk_event_topic"],
    "stock-service": ["stock_lock_topic", "stock_release_topic", "goods_change_topic"],
}
# group: application, topics with tags, attempts at most
GROUPS: dict[str, tuple[str, dict[str, str], int]] = {
    "order_bill_group": ("order-service", {"order_topic": "*"}, 4),
    "order_search_group": ("order-service", {"order_topic": "created || paid"}, 16),
    "order_timeout_group": ("order-service", {"order_timeout_topic": "*"}, 8),
    "order_refund_group": ("order-service", {"order_refund_topic": "*"}, 8),
    "coupon_grant_group": ("order-service", {"coupon_topic": "*", "order_topic": "paid"}, 8),
    "coupon_expire_group": ("order-service", {"coupon_expire_topic": "*"}, 8),
    "pay_bill_group": ("pay-service", {"pay_result_topic": "*"}, 8),
    "pay_order_group": ("pay-service", {"order_topic": "created"}, 8),
    "pay_notify_group": ("pay-service", {"pay_notify_topic": "*"}, 3),
    "pay_settle_group": ("pay-service", {"pay_settle_topic": "*"}, 8),
    "pay_refund_group": ("pay-service", {"order_refund_topic": "*"}, 8),
    "risk_score_group": ("pay-service", {"risk_event_topic": "*", "pay_result_topic": "*"}, 8),
    "risk_archive_group": ("pay-service", {"risk_event_topic": "*"}, 8),
    "stock_lock_group": ("stock-service", {"stock_lock_topic": "*"}, 8),
    "stock_order_group": ("stock-service", {"order_topic": "paid"}, 8),
    "stock_release_group": ("stock-service", {"stock_release_topic": "*", "order_timeout_topic": "*"}, 8),
    "goods_index_group": ("stock-service", {"goods_change_topic": "*"}, 8),
    "goods_cache_group": ("stock-service", {"goods_change_topic": "price"}, 8),
    "stock_report_group": ("stock-service", {"stock_lock_topic": "*", "stock_release_topic": "*"}, 8),
    "goods_audit_group": ("stock-service", {"goods_change_topic": "*"}, 8),
}
FAILING = "pay_notify_group"
# What a person may do to the demo's topics and groups while it runs: the rest goes on.
AWAY = ("topic_not_active", "not_on_builtin_store", "not_found")
IDLE = {"risk_archive_group", "goods_audit_group"}  # nobody consumes these: their lag grows
TAGS = {"order_topic": ["created", "paid", "shipped"], "goods_change_topic": ["price", "title", "stock"]}
ERRORS = ["the receiver answered 503", "the receiver answered 503", "the receiver's certificate has expired", "time-out after 3 s"]


class Api:
    """The REST API in the name of one person; a refusal ends the demo with its words unless it is expected."""

    def __init__(self, url: str, token: str) -> None:
        self.client = httpx.Client(base_url=f"{url}/api/v1/", headers={"Authorization": f"Token {token}"}, timeout=40)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None, *, expect: tuple[str, ...] = ()) -> Any:
        """Return the parsed answer; None for a problem whose code is expected."""
        response = self.client.request(method, path, json=body)
        if response.is_success:
            return response.json() if response.content else None
        code = response.json().get("code") if "json" in response.headers.get("content-type", "") else ""
        if code in expect:
            return None
        raise SystemExit(f"{method} {path}: {response.status_code} {response.text[:500]}")


def read_settings(path: Path) -> dict[str, str]:
    """NAME=value lines of a shell-sourceable file."""
    pairs = (line.split("=", 1) for line in path.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return {name.removeprefix("export ").strip(): "".join(shlex.split(value)) for name, value in pairs}


def fill(admin: Api, operator: Api) -> None:
    """Apply for everything as one person and approve as the other; what is there already stays."""
    known = ("duplicate_name",)
    admin.call("POST", "clusters", {"name": "kafka-a", "kind": "kafka", "address": "10.0.0.1:9092,10.0.0.2:9092"}, expect=known)
    admin.call("POST", "clusters", {"name": "rocketmq-a", "kind": "rocketmq", "address": "10.0.1.1:9876;10.0.1.2:9876"}, expect=known)
    for application, topics in TOPICS.items():
        admin.call("POST", "applications", {"name": application}, expect=known)
        for topic in topics:
            fields = {"expected_rate": random.choice([10, 50, 200]), "message_bytes": 400, "partitions": random.choice([4, 8, 16])}  # noqa: S311
            admin.call(
                "POST", "topics", {"name": topic, "application": application, "reason": f"events of {application}", **fields}, expect=known
            )
            operator.call("POST", f"topics/{topic}/approval", {"cluster": "builtin"}, expect=("wrong_state",))
    for group, (application, subscriptions, attempts) in GROUPS.items():
        rows = [{"topic": topic, "tags": tags} for topic, tags in subscriptions.items()]
        body = {
            "name": group,
            "application": application,
            "subscriptions": rows,
            "max_attempts": attempts,
            "reason": f"needed by {application}",
        }
        admin.call("POST", "consumer-groups", {**body, "backoff_ms": 500, "backoff_max_ms": 4000}, expect=known)
        operator.call("POST", f"consumer-groups/{group}/approval", {}, expect=("wrong_state",))
    # One request that waits for somebody, one that was rejected, one that is for a broker cluster.
    base = {"expected_rate": 5, "message_bytes": 300, "partitions": 1}
    admin.call(
        "POST", "topics", {"name": "mail_send_topic", "application": "pay-service", "reason": "invoices by mail", **base}, expect=known
    )
    if admin.call(
        "POST", "topics", {"name": "debug_topic", "application": "stock-service", "reason": "trying things", **base}, expect=known
    ):
        operator.call("POST", "topics/debug_topic/rejection", {"reason": "Use the staging deployment for trials."})
    if admin.call(
        "POST", "topics", {"name": "click_topic", "application": "stock-service", "reason": "clicks", **base, "ordered": True}, expect=known
    ):
        operator.call("POST", "topics/click_topic/approval", {"cluster": "kafka-a"})
    body = {"application": "order-service", "task": "stress-2026-11", "group": "order_bill_group", "topic": "order_topic"}
    shadow = admin.call("POST", "shadow-tasks", body, expect=known)
    if shadow:
        admin.call("POST", f"shadow-tasks/{shadow['id']}/start", {"minutes": 60, "reason": "demo of a stress test"})


def produce(url: str, token: str, application: str) -> None:
    """Send a few messages a second; every order gets a time-out half a minute later."""
    api = Api(url, token)
    number = 0
    while True:
        for topic in TOPICS[application]:
            if topic == "order_timeout_topic" or random.random() < 0.3:  # noqa: S311
                continue
            number += 1
            key = f"{topic.removesuffix('_topic')}-{os.getpid()}-{number}"
            tag = random.choice(TAGS.get(topic, [""]))  # noqa: S311
            body = f'{{"id": "{key}", "amount": {random.randint(1, 9999)}}}'  # noqa: S311
            api.call("POST", f"topics/{topic}/messages", {"body": body, "key": key, "tag": tag}, expect=AWAY)
            if topic == "order_topic" and tag == "created":
                late = {"body": body, "key": key, "tag": "unpaid", "delay_ms": 30_000}
                api.call("POST", "topics/order_timeout_topic/messages", late, expect=AWAY)
        time.sleep(random.uniform(0.3, 0.9))  # noqa: S311


def consume(url: str, token: str, groups: list[str]) -> None:
    """Take turns over some groups; settling a batch and pulling the next is one call."""
    api = Api(url, token)
    hands: dict[str, dict[str, Any]] = {group: {} for group in groups}
    while True:
        for group in groups:
            body = {"max": 50, "wait_ms": 100, "visibility_ms": 30_000, "consumer": f"demo-{os.getpid()}", **hands[group]}
            answer = api.call("POST", f"consumer-groups/{quote(group)}/next", body, expect=("group_not_active", "not_found")) or {}
            hands[group] = {}
            if answer.get("lease"):
                acks = [_outcome(group, message["id"]) for message in answer["messages"]]
                hands[group] = {"lease": answer["lease"], "acks": acks}
        time.sleep(0.2)


def _outcome(group: str, message: int) -> dict[str, Any]:
    if (group == FAILING and message % 4 == 0) or random.random() < 0.005:  # noqa: S311
        return {"id": message, "status": "failed", "error": random.choice(ERRORS)}  # noqa: S311
    return {"id": message, "status": "succeeded"}


def _child(work: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    signal.signal(signal.SIGTERM, lambda _s, _f: os._exit(0))
    while True:
        try:
            work(*arguments)
        except httpx.HTTPError as error:
            print(f"{work.__name__}: {type(error).__name__}, again in 2 s", flush=True)  # noqa: T201
            time.sleep(2)


def main() -> int:
    """Fill, start the processes, wait for Ctrl-C."""
    home = Path(os.environ.get("MQADMIN_HOME") or ".mqadmin")
    credentials = home / "credentials.env"
    if not credentials.exists():
        print(f"{credentials} is not there: start `make run` first, or set MQADMIN_HOME to its home.", file=sys.stderr)  # noqa: T201
        return 2
    settings = read_settings(credentials)
    running = {**(read_settings(home / "env") if (home / "env").exists() else {}), **os.environ}
    url = running.get("MQADMIN_URL") or settings["MQADMIN_URL"]
    admin, operator = Api(url, settings["MQADMIN_ADMIN_TOKEN"]), Api(url, settings["MQADMIN_OPERATOR_TOKEN"])
    try:
        fill(admin, operator)
    except httpx.ConnectError:
        print(f"Nothing answers at {url}: start `make run` first.", file=sys.stderr)  # noqa: T201
        return 2
    context = multiprocessing.get_context("spawn")
    token = settings["MQADMIN_OPERATOR_TOKEN"]
    busy = [group for group in GROUPS if group not in IDLE]
    work: list[tuple[Any, ...]] = [(produce, url, token, application) for application in TOPICS]
    work += [(consume, url, token, busy[i::3]) for i in range(3)]
    children = [context.Process(target=_child, args=arguments, daemon=True) for arguments in work]
    for child in children:
        child.start()
    watchers = []
    if "ZOOKEEPER_HOSTS" in running:
        program = Path(__file__).resolve().parent.parent / "sdk" / "examples" / "watch.py"
        for application, topics in TOPICS.items():
            group = next(name for name, (owner, _topics, _attempts) in GROUPS.items() if owner == application)
            command = [sys.executable, str(program), "--app", application, "--topic", topics[0], "--group", group]
            where = {f"MQADMIN_{name}": value for name, value in running.items() if name.startswith("ZOOKEEPER_TLS_")}
            where["MQADMIN_ZOOKEEPER"] = running["ZOOKEEPER_HOSTS"]
            watchers.append(subprocess.Popen(command, env={**os.environ, **where}))  # noqa: S603
    print(  # noqa: T201
        f"The demo runs: {len(children)} producers and consumers, {len(watchers)} SDK programs. Look at {url}/ - Ctrl-C ends it.",
        flush=True,
    )

    def leave(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
    try:
        while all(child.is_alive() for child in children):
            time.sleep(1)
    except KeyboardInterrupt:
        return 0
    else:
        print("A process of the demo ended by itself.", file=sys.stderr)  # noqa: T201
        return 1
    finally:
        for child in children:
            child.terminate()
        for watcher in watchers:
            watcher.terminate()
        for child in children:
            child.join(5)
        for watcher in watchers:
            watcher.wait(5)
        print("The demo has ended; what it made stays.")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
