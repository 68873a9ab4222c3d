"""Kinds for the tests of operations: what they do is write an audit entry, so that doing it twice is seen."""

import os
import signal

from django.db import OperationalError, connection

from core.audit.models import AuditEntry
from core.audit.services import record
from core.errors import Problem
from core.operations import driving, kinds


class BrokenError(Exception):
    """A mistake in a room's code."""


def write(actor, item, params):
    record(actor=actor, action="tidy", kind="test", name=item.key, after={"step": item.step})
    match item.input.get("poison"):
        case "problem":
            raise Problem("too_dusty", "Too dusty.", hint="Wipe it first.", status=409)
        case "bug":
            raise BrokenError
        case "data":
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 / 0")
        case "database":
            raise OperationalError("deadlock detected")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)


def write_many(actor, items, params):
    results = []
    for item in items:
        if item.input.get("poison") == "problem":
            results.append(Problem("too_dusty", "Too dusty."))
        else:
            write(actor, item, params)
            results.append(None)
    return results


def _register(**arguments):
    if kinds.get(arguments["name"]) is None:
        kinds.register(kinds.Kind(label="Tidy", permission="topics.move_topic", **arguments))


_register(name="test.each", perform=write, chunk=10)
_register(name="test.many", perform=write, perform_many=write_many, chunk=10)
_register(
    name="test.steps",
    perform=write,
    chunk=10,
    steps=(kinds.Step("prepare", "Prepare", required=True), kinds.Step("switch", "Switch"), kinds.Step("check", "Check")),
)


def run(operation, calls=200):
    """Drive until nothing is left to do, as workers do."""
    for _call in range(calls):
        if not driving.take_on(operation.pk):
            break
    operation.refresh_from_db()
    return operation


def done_names():
    """What was really done, by what the audit holds."""
    return sorted(AuditEntry.objects.filter(kind="test").values_list("name", flat=True))
