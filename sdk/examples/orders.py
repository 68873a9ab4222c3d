"""Orders are sent, and bills are written for them, wherever mqadmin says; `Client.from_env` says what the environment has to hold.

    python sdk/examples/orders.py send      # an order each second, to order_topic
    python sdk/examples/orders.py bill      # as order_bill_group, until Ctrl-C

Meanwhile move the topic, suspend the group, or kill one of several `bill` processes.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import time

from mqadmin_sdk import Client, Dead, Message


def send(client: Client, topic: str, pause: float) -> None:
    """Send until Ctrl-C."""
    for number in itertools.count(1):
        sent = client.send(topic, {"id": number, "amount": number % 7}, key=f"order-{number}", tag="created")
        print(f"order {number} is stored on {sent.cluster} as {sent.id}", flush=True)
        time.sleep(pause)


def bill(client: Client, group: str) -> None:
    """Consume until Ctrl-C or SIGTERM."""

    @client.subscribe(group, concurrency=4)
    def write_bill(message: Message) -> None:
        order = message.json()
        if not order["amount"]:
            raise Dead("nothing to pay")
        print(f"bill for {message.key}: {order['amount']} (attempt {message.attempt})", flush=True)

    client.run()


def main() -> None:
    """Send or bill."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=["send", "bill"])
    options.add_argument("--topic", default="order_topic")
    options.add_argument("--group", default="order_bill_group")
    options.add_argument("--pause", type=float, default=1.0, help="seconds between two orders")
    chosen = options.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("mqadmin_sdk").setLevel(logging.INFO)
    with Client.from_env(check=True) as client:
        try:
            if chosen.what == "send":
                send(client, chosen.topic, chosen.pause)
            else:
                bill(client, chosen.group)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
