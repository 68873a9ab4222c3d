# ruff: noqa: E402 - Django is set up first
"""A registrar that races: it leaves no row to another one and waits a moment between reading and writing. Started by tests, as a process.

`--unconditional` also takes the version away from every write: the negative control.
"""

import os
import random
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mqadmin.settings")

import django

django.setup()

from django.core.management import call_command
from kazoo.client import TransactionRequest

from registry.registrar import Registrar

Registrar._prefers = lambda _self, _path: True
commit_async, set_data = TransactionRequest.commit_async, TransactionRequest.set_data


def commit_late(self):
    time.sleep(random.choice([0, 0, 0.02, 0.1]))
    return commit_async(self)


TransactionRequest.commit_async = commit_late
if "--unconditional" in sys.argv:
    TransactionRequest.set_data = lambda self, path, data, _version: set_data(self, path, data, -1)
call_command("registrar", skip_checks=True)
