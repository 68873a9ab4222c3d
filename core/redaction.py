"""What is taken for a secret by its name or its form, and masked before it reaches a log or the audit."""

import re
from collections.abc import Callable, Mapping
from typing import Any

MASK = "••••••••"
_NAMES = re.compile(
    r"(?:^|[_\-. ])(?:password|passwd|pwd|passphrase|secrets?|token|api_?key|private_?key|access_?key|secret_?key|encryption_?keys?"
    r"|authorization|cookie|csrfmiddlewaretoken|sessionid|signature)\d?$",
    re.IGNORECASE,
)
#: What has to stand in a text, folded, for a form to be there (looking for that costs a tenth of looking for the form), the form, its mask.
_FORMS: list[tuple[tuple[str, ...], re.Pattern[str], str]] = [
    (("mq_",), re.compile(r"\bmq_[A-Za-z0-9_-]{20,}"), MASK),  # our own tokens and keys
    (("authorization",), re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?)[^'\"\r\n,}]+"), rf"\1{MASK}"),
    (("token", "bearer", "basic"), re.compile(r"(?i)\b(token|bearer|basic)\s+[A-Za-z0-9_\-.=+/]{20,}"), rf"\1 {MASK}"),
    (("@",), re.compile(r"\b([a-z][a-z0-9+.-]*://[^/\s:@]*):[^/\s@]+@"), rf"\1:{MASK}@"),  # postgres://name:password@host
    (
        ("password", "passwd", "secret", "apikey", "api_key"),
        re.compile(r"(?i)\b((?:password|passwd|secret|api_?key)['\"]?\s*[:=]\s*)(['\"]?)[^\s'\",;&}]+\2"),
        rf"\1{MASK}",
    ),
]


def is_secret_name(name: object) -> bool:
    """Whether a field of this name holds a secret: `password`, `webhook_secret`, `HTTP_AUTHORIZATION` and the like."""
    return isinstance(name, str) and bool(_NAMES.search(name))


def masked(name: object, value: Any, otherwise: Callable[[Any], Any]) -> Any:
    """The mask for a secret by its name; whether there is one (true, null, a number, an empty text) may be seen."""
    return MASK if value and is_secret_name(name) and not isinstance(value, bool | int | float) else otherwise(value)


def redacted(value: Any) -> Any:
    """The same, with what stands under a secret's name masked, at any depth; what is empty stays empty."""
    if isinstance(value, Mapping):
        return {key: masked(key, item, redacted) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value


def redacted_text(text: str) -> str:
    """The same text without what has the form of a secret: our tokens, Authorization headers, passwords in URLs."""
    folded = text.casefold()
    for hints, form, mask in _FORMS:
        if any(hint in folded for hint in hints):
            text = form.sub(mask, text)
    return text
