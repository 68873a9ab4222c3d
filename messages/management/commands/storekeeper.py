"""`manage.py storekeeper`: keep the message store's horizon moving, until SIGTERM or SIGINT."""

import faulthandler
import signal
from typing import Any

import structlog
from django.core.management.base import BaseCommand

from messages.storekeeper import Storekeeper

log = structlog.get_logger(__name__)

#: Seconds that the step in hand has after the signal. Then its statement is cancelled, since it may be waiting for a lock: each is a
#: transaction, and whoever is active next does it again.
PATIENCE = 1.0
#: Seconds after the signal when the process ends in any case, also where Postgres does not take the cancelling.
ENDING = 3.5


class Command(BaseCommand):
    help = (
        "Ticks the horizon of the message store, cuts counters, makes partitions ahead, until SIGTERM. Any number may run, one is active."
    )

    def handle(self, *_args: Any, **_options: Any) -> None:
        keeper = Storekeeper()

        def stop(*_: object) -> None:
            keeper.stop()
            signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
            faulthandler.dump_traceback_later(ENDING, exit=True)

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt  # on which psycopg cancels what runs

        signal.signal(signal.SIGALRM, interrupt)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, stop)
        try:
            keeper.run()
        except KeyboardInterrupt:
            log.warning("storekeeper was stopped in the middle of a step, which is undone")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
