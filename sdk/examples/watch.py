"""Print every change of a topic and a consumer group as it comes; the console meanwhile shows this process as online.

    python sdk/examples/watch.py --app order-service --topic order_topic --group order_bill_group

A real application would rebuild its producer or consumer where this program prints a line.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading

from mqadmin_sdk import Access, Client, GroupMetadata, ShadowGroup, TopicMetadata


def say(line: str) -> None:
    """Print at once, also into a pipe."""
    print(line, flush=True)


class Printer:
    """Remembers what was there before, so that it can say what has changed."""

    def __init__(self) -> None:
        self.topics: dict[str, TopicMetadata | None] = {}
        self.groups: dict[str, GroupMetadata | None] = {}

    def topic(self, name: str, now: TopicMetadata | None) -> None:
        """Tell a topic's change."""
        before, self.topics[name] = self.topics.get(name), now
        if now is None:
            say(f"topic {name}: gone")
        elif before is not None and before.cluster.boot_addr != now.cluster.boot_addr:
            address = now.cluster.boot_addr or "no address"
            say(f"topic {name}: rebuilt for cluster {now.cluster.name} ({address}), generation {now.generation}")
        elif before is not None and before.cluster.name != now.cluster.name:
            say(f"topic {name}: rebuilt for cluster {now.cluster.name}, generation {now.generation}")
        else:
            say(f"topic {name}: cluster {now.cluster.name}, generation {now.generation}")

    def group(self, name: str, now: GroupMetadata | None) -> None:
        """Tell a group's change."""
        before, self.groups[name] = self.groups.get(name), now
        if now is None:
            say(f"group {name}: gone")
        elif before is None or before.suspended == now.suspended:
            filters = ", ".join(f"{topic} [{tags}]" for topic, tags in now.subscriptions.items())
            state = "suspended, " if now.suspended else ""
            say(f"group {name}: {state}cluster {now.cluster.name}, {filters}, generation {now.generation}")
        else:
            say(f"group {name}: {'suspended' if now.suspended else 'resumed'}")

    def shadow(self, now: ShadowGroup) -> None:
        """Tell that a shadow group starts or stops."""
        say(f"shadow {now.task}/{now.group}: {'started' if now.running else 'stopped'}{' (lease over)' if now.reason == 'lease' else ''}")


def main() -> None:
    """Follow until SIGTERM or Ctrl-C."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--zookeeper", default=os.environ.get("MQADMIN_ZOOKEEPER", "127.0.0.1:2181"), help="host:port[,…][/chroot]")
    options.add_argument("--app", default=os.environ.get("MQADMIN_APP", "watch-example"))
    options.add_argument("--topic", action="append", default=[], help="may be given several times")
    options.add_argument("--group", action="append", default=[], help="may be given several times")
    options.add_argument("--session-timeout", type=float, default=10.0, help="seconds")
    chosen = options.parse_args()
    logging.basicConfig(level=logging.ERROR)

    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    printer = Printer()
    access = Access.from_env()  # MQADMIN_ZOOKEEPER_TLS_CA and others, where ZooKeeper wants TLS or credentials
    with Client(zookeeper=chosen.zookeeper, app=chosen.app, session_timeout=chosen.session_timeout, access=access) as client:
        for topic in chosen.topic:
            client.watch_topic(topic, lambda now, topic=topic: printer.topic(topic, now))
        for group in chosen.group:
            client.watch_group(group, lambda now, group=group: printer.group(group, now))
        client.watch_shadow(printer.shadow)
        say(f"watching {', '.join([*chosen.topic, *chosen.group]) or 'nothing'} as {chosen.app}")
        while not stop.wait(1.0):
            pass


if __name__ == "__main__":
    main()
