"""Filters by tag, for brokers that do not evaluate them as mqadmin's own store does."""

from __future__ import annotations

import re


def matches(wanted: str, tags: str) -> bool:
    """Whether a message with these tags passes a filter: `*`, `a || b`, or `~` and a regular expression for a whole tag."""
    if wanted.strip() in {"", "*"}:
        return True
    own = [tag.strip() for tag in tags.split("||")]
    if wanted.startswith("~"):
        return any(re.fullmatch(wanted[1:], tag) for tag in own)
    return not {tag.strip() for tag in wanted.split("||")}.isdisjoint(own)
