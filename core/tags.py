"""Tag expressions of subscriptions: `*` for all tags, or a list like `created || paid`."""

import re
from typing import Any

from django.utils.translation import gettext as _

from core.errors import FieldError, Problem

_TAG = re.compile(r"[A-Za-z0-9_.%:@/+=-]{1,120}")
MAX_TAGS = 64


def valid_tag(tag: str) -> bool:
    """Whether a message may carry this tag: 1 to 120 letters, digits and _ . % : @ / + = - (so `*` and `|` stay operators)."""
    return _TAG.fullmatch(tag) is not None


def parse(expression: Any, *, pointer: str = "/tags") -> list[str] | None:
    """Return the tags of an expression, None for all of them; raise the problem `invalid_tag_expression`."""
    if isinstance(expression, str) and expression.strip() in {"*", ""}:
        return None
    tags = [part.strip() for part in expression.split("||")] if isinstance(expression, str) else []
    if not tags or len(tags) > MAX_TAGS or not all(valid_tag(tag) for tag in tags):
        hint = _("Use * for all tags, or at most {n} tags separated by ||, for example: created || paid").format(n=MAX_TAGS)
        raise Problem(
            "invalid_tag_expression",
            _("“{expression}” is not a valid tag expression.").format(expression=str(expression)[:200]),
            hint=hint,
            errors=[FieldError(pointer, hint)],
        )
    return sorted(set(tags))


def canonical(expression: Any, *, pointer: str = "/tags") -> str:
    """Return the expression in its one spelling: `*` or sorted tags with ` || ` between them."""
    tags = parse(expression, pointer=pointer)
    return "*" if tags is None else " || ".join(tags)
