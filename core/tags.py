"""Tags of messages, and tag expressions of subscriptions: `*`, a list like `created || paid`, or `~` and a regular expression."""

import re
from typing import Any

from django.utils.translation import gettext as _

from core import tag_patterns
from core.errors import FieldError, Problem

_TAG = re.compile(r"[A-Za-z0-9_.%:@/+=-]{1,120}")
_SEPARATOR = " || "
MAX_TAGS = 64
MAX_MESSAGE_TAGS = 8
MAX_MESSAGE_TEXT = 500


def valid_tag(tag: str) -> bool:
    """Whether a message may carry this tag: 1 to 120 letters, digits and _ . % : @ / + = - (so `*`, `|` and `~` stay operators)."""
    return _TAG.fullmatch(tag) is not None


def valid_tags(text: str) -> bool:
    """Whether a message may carry this: one tag, or several in the spelling of `spelt`."""
    if "|" not in text:
        return valid_tag(text)
    tags = text.split(_SEPARATOR)
    return len(text) <= MAX_MESSAGE_TEXT and len(tags) <= MAX_MESSAGE_TAGS and tags == sorted(set(tags)) and all(map(valid_tag, tags))


def spelt(text: str) -> str:
    """The tags of a message in their one spelling, sorted with ` || ` between them; what is wrong with them stays so."""
    return _SEPARATOR.join(sorted({part.strip() for part in text.split("||")})) if "|" in text else text


def parse(expression: Any, *, pointer: str = "/tags") -> list[str] | None:
    """Return an expression as the store keeps it, None for all tags; raise the problem `invalid_tag_expression`.

    A regular expression is one element that begins with ~, which no tag does.
    """
    if isinstance(expression, str) and expression.strip() in {"*", ""}:
        return None
    if isinstance(expression, str) and expression.strip().startswith("~"):
        return [f"~^(?:{_pattern(expression, pointer)})$"]
    tags = [part.strip() for part in expression.split("||")] if isinstance(expression, str) else []
    if not tags or len(tags) > MAX_TAGS or not all(valid_tag(tag) for tag in tags):
        hint = _(
            "Use * for all tags, at most {n} tags separated by ||, for example: created || paid, or ~ and a regular expression"
        ).format(n=MAX_TAGS)
        raise _invalid(expression, hint, pointer)
    return sorted(set(tags))


def _pattern(expression: str, pointer: str) -> str:
    try:
        return tag_patterns.check(expression.strip()[1:].strip())
    except tag_patterns.PatternError as error:
        if error.too_large:
            hint = _("The regular expression is too large: shorten it, use smaller repetitions and fewer of them within each other.")
        else:
            hint = _(
                "The regular expression is wrong at its character {n}. It may have the characters of tags, . \\d \\w \\s, [a-z], groups, |"
                " and * + ? {{2,5}}; what is meant as such stands behind a backslash: \\."
            ).format(n=error.at + 1)
        raise _invalid(expression, hint, pointer) from None


def _invalid(expression: Any, hint: str, pointer: str) -> Problem:
    return Problem(
        "invalid_tag_expression",
        _("“{expression}” is not a valid tag expression.").format(expression=str(expression)[:300]),
        hint=hint,
        errors=[FieldError(pointer, hint)],
    )
