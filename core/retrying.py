"""Transactions that Postgres ended because two of them waited for each other: nothing of them is left, so they are begun again."""

import functools
import random
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import structlog
from django.db import OperationalError, connection
from psycopg import errors

log = structlog.get_logger(__name__)

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

ATTEMPTS = 5
PAUSE = 0.05  # seconds before the second attempt, doubled before each further one


def is_deadlock(error: BaseException) -> bool:
    """Whether Postgres has ended a transaction for the sake of another one."""
    return isinstance(error, OperationalError) and isinstance(error.__cause__, errors.DeadlockDetected | errors.SerializationFailure)


def again(work: Callable[[], Result]) -> Result:
    """Do what is one transaction, and again when it was the victim of a deadlock; within a transaction only once, since that is lost.

    Locks are taken in one order within one thing; who takes those of many things in one transaction cannot hold to it.
    """
    if connection.in_atomic_block:
        return work()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except OperationalError as error:
            if attempt == ATTEMPTS or not is_deadlock(error):
                raise
            log.warning("deadlock", attempt=attempt)
        time.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))  # noqa: S311 - so that both do not come again at once
    raise AssertionError


def repeated(verb: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A verb that is one transaction and reads under its locks what it writes: see `again`."""

    @functools.wraps(verb)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return again(lambda: verb(*args, **kwargs))

    return wrapped
