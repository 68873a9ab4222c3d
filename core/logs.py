"""What does not belong into the log: probes that say no, and secrets."""

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any

from core.redaction import masked, redacted_text


class WithoutProbes(logging.Filter):
    """A readiness probe that says 503 is an answer, not an error; it comes several times a second."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop what the request log says about /readyz."""
        return "/readyz" not in record.getMessage()


def without_secrets(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: mask what stands under a secret's name, and what has the form of a secret in any text."""
    for key, value in event.items():
        event[key] = masked(key, value, _clean)
    return event


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, Mapping):
        return {key: masked(key, item, _clean) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    if isinstance(value, bool | int | float) or value is None:
        return value
    return redacted_text(repr(value))
