"""The WSGI application that Granian serves."""

import gc
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mqadmin.settings")
os.environ.setdefault("MQADMIN_DB_POOL_SIZE", "24")

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

# Granian sets its own signal handlers after this module is loaded, and then waits for its threads: those that are parked wake first.
from core.operations.streams import close  # noqa: E402 - needs the settings that the lines above load
from messages.waiting import wake_on_signals  # noqa: E402
from registry import convergence  # noqa: E402

wake_on_signals(close, convergence.close)

# What is loaded stays: the collector need not go through it again each time.
gc.collect()
gc.freeze()
