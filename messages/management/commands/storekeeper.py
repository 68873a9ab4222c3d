"""`manage.py storekeeper`: keep the message store's horizon moving, until SIGTERM or SIGINT."""

import signal
from typing import Any

from django.core.management.base import BaseCommand

from messages.storekeeper import Storekeeper


class Command(BaseCommand):
    help = (
        "Ticks the horizon of the message store, cuts counters, makes partitions ahead, until SIGTERM. Any number may run, one is active."
    )

    def handle(self, *_args: Any, **_options: Any) -> None:
        keeper = Storekeeper()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: keeper.stop())
        keeper.run()
