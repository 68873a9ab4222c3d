"""How a command ends: the exit codes, and the error that carries one."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from mqadmin_sdk.errors import (
    Busy,
    ConflictError,
    ForbiddenError,
    MqadminError,
    NotAuthenticatedError,
    NotFoundError,
    ProblemError,
    TransportError,
    UnavailableError,
)


class Exit(IntEnum):
    """What a pipeline branches on; the same for every command. They stand in docs/mqctl.md."""

    DONE = 0
    FAILED = 1  # the server said no, or some items failed
    USAGE = 2  # options, arguments, configuration
    FINDING = 3  # it was looked at, and the answer is no: differences, lag over the limit, a fault that doctor found
    CREDENTIALS = 4
    NOT_FOUND = 5
    CONFLICT = 6  # its state does not allow it, or somebody was faster
    UNREACHABLE = 7  # the server or ZooKeeper does not answer, or has no time
    UNFINISHED = 8  # what was waited for has not come true in time
    INTERRUPTED = 130


_BY_KIND = (
    (NotAuthenticatedError, Exit.CREDENTIALS),
    (ForbiddenError, Exit.CREDENTIALS),
    (NotFoundError, Exit.NOT_FOUND),
    (ConflictError, Exit.CONFLICT),
    (UnavailableError, Exit.UNREACHABLE),
)


class CommandError(Exception):
    """A command that ends with `code`: a sentence, what to do about it, and the fields or rows that it is about."""

    def __init__(
        self, message: str, *, code: Exit = Exit.FAILED, hint: str = "", details: tuple[str, ...] = (), problem: Any = None
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.hint, self.details, self.problem = message, code, hint, details, problem


def of_error(error: MqadminError) -> CommandError:
    """Return how a command ends on an error of the SDK."""
    if isinstance(error, Busy):
        return CommandError(f"{error} [{error.code}]", code=Exit.UNREACHABLE, hint=error.hint)
    if not isinstance(error, ProblemError):
        return CommandError(str(error), code=Exit.UNREACHABLE if isinstance(error, TransportError) else Exit.FAILED)
    fields = tuple(f"{one.get('pointer', '')}: {one.get('detail', '')}" for one in error.errors)
    said = len(fields) == 1 and fields[0].endswith(error.detail)
    code = next((code for kind, code in _BY_KIND if isinstance(error, kind)), Exit.FAILED)
    return CommandError(
        f"{error.detail} [{error.code}]", code=code, hint=error.hint, details=() if said else fields, problem=dict(error.document)
    )
