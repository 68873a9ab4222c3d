"""One application process of the fleet (test_sdk_fleet.py): it sends and consumes through the SDK until it is told to end.

    sdk_fleet_worker.py NAME FOLDER

What it does is written to FOLDER/NAME.log, a line each, before and after; a line that is written survives `kill -9`:
`try BODY [KEY]`, `sent BODY ID`, `got GROUP BODY ID ATTEMPT`, `shadow GROUP BODY`, `topic GENERATION`, `refused CODE`, `ended LEAKS`, each
after the time on the clock that all processes share. It stops sending when FOLDER/quiet is there.
"""

import os
import random
import sys
import threading
import time
from pathlib import Path

from mqadmin_sdk import Client, Message, MqadminError, shadow

NAME, FOLDER = sys.argv[1], Path(sys.argv[2])
LOG = os.open(FOLDER / f"{NAME}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
PAUSE = float(os.environ.get("FLEET_PAUSE", "0.05"))


def say(*words: object) -> None:
    os.write(LOG, (" ".join(map(str, (time.monotonic(), *words))) + "\n").encode())


def handler(group: str, slow: float):
    def handle(message: Message) -> None:
        if random.random() < slow:
            time.sleep(random.uniform(0.01, 0.2))
        say("got", group, message.text, message.id, message.attempt)
        if random.random() < 0.01:
            raise RuntimeError("a handler fails now and then")

    return handle


def send(client: Client, ended: threading.Event) -> None:
    """Send in every way that there is: at once, in the background, as a batch, in an order of their own."""
    number = 0
    while not ended.wait(random.uniform(0, 2 * PAUSE)):
        if (FOLDER / "quiet").exists():
            client.flush()
            continue
        way = random.randrange(5)
        bodies = [f"{NAME}-{number + more}" for more in range(5 if way == 2 else 1)]
        number += len(bodies)
        key = f"{NAME}-{random.randrange(3)}"
        for body in bodies:
            say("try", body, *([key] if way == 3 else []))
        try:
            if way == 0:
                said(bodies, [client.send("orders", bodies[0], timeout=60)])
            elif way == 1:
                future = client.send_async("orders", bodies[0], timeout=60)
                future.add_done_callback(lambda done, bodies=bodies: said(bodies, [done.result()]) if done.exception() is None else None)
            elif way == 2:
                said(bodies, client.send_batch("orders", bodies, timeout=60))
            elif way == 3:
                said(bodies, [client.send("steps", bodies[0], sharding_key=key, timeout=60)])
            else:
                with shadow("stress"):
                    client.send("orders", f"shadow-{bodies[0]}", timeout=60)
        except MqadminError as error:
            say("refused", getattr(error, "code", type(error).__name__))


def said(bodies: list[str], results: list) -> None:
    for body, result in zip(bodies, results, strict=True):
        say("sent", body, result.id)


def main() -> None:
    client = Client.from_env(labels={"zone": "a" if hash(NAME) % 2 else "b"})
    client.watch_topic("elsewhere", lambda topic: say("topic", topic.generation if topic else "gone"))
    options = {"concurrency": 4, "prefetch": 50, "lease": 5.0, "poll": 2.0}
    client.subscribe("billing", handler("billing", 0.1), shadow=lambda message: say("shadow", "billing", message.text), **options)
    client.subscribe("stock", handler("stock", 0.02), **options)
    client.subscribe("steps_group", handler("steps_group", 0.1), **options)
    ended = threading.Event()
    sender = threading.Thread(target=send, args=(client, ended), daemon=True)
    sender.start()
    try:
        client.run()
    finally:
        ended.set()
        sender.join(70)
        client.close()
        say("ended", client.consumers.shadowing.leaks.total)


main()
