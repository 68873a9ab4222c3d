"""Strong ETags and If-Match: a change says which version it was made from, and of two from the same one the second is refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.utils.translation import gettext as _

from core.errors import Problem

REQUIRED = frozenset({"PUT", "PATCH", "DELETE"})
_ONE = r'(?:W/)?"[\x21\x23-\x7e]*"'
_TAGS = re.compile(rf"\s*{_ONE}(?:\s*,\s*{_ONE})*\s*")


def etag(version: object) -> str:
    """The version of a row as an ETag."""
    return f'"{version}"'


def stale(current: str | None) -> Problem:
    """The version that was named is not the one that is there."""
    return Problem(
        "stale",
        _("It has been changed since you read it.") if current else _("There is nothing here yet."),
        status=412,
        hint=_("Read it again, look at what is different, and repeat your change with its ETag."),
        extra={"current_etag": current},
        headers={"ETag": current} if current else {},
    )


def _tags(header: str, name: str) -> list[str]:
    if header.strip() == "*":
        return ["*"]
    if not _TAGS.fullmatch(header):
        raise Problem(
            "invalid_etag",
            _("{name} must be an ETag, or *.").format(name=name),
            hint=_('Send the ETag as it was given, with its quotation marks: {name}: "3"').format(name=name),
        )
    return re.findall(_ONE, header)


@dataclass
class Preconditions:
    """The conditions of one request; `checked` tells whether a version was held against them."""

    method: str = "GET"
    match: list[str] | None = None
    none_match: list[str] | None = None
    checked: bool = field(default=False)

    @classmethod
    def of(cls, method: str, headers: Mapping[str, Any]) -> "Preconditions":
        """Those of a request's headers. Problem: invalid_etag."""
        match, none_match = headers.get("If-Match"), headers.get("If-None-Match")
        return cls(
            method=method,
            match=None if match is None else _tags(match, "If-Match"),
            none_match=None if none_match is None else _tags(none_match, "If-None-Match"),
        )

    def check(self, version: object) -> None:
        """Hold the version of what is there against If-Match. Problems: precondition_required (428), stale (412)."""
        self.checked = True
        current = etag(version)
        if self.method == "PUT" and self.none_match is not None and ("*" in self.none_match or current in self.none_match):
            raise stale(current)
        if self.match is None:
            if self.method in REQUIRED:
                raise Problem(
                    "precondition_required",
                    _("Say which version you are changing: send If-Match."),
                    status=428,
                    hint=_("Read it first; its ETag is the value: If-Match: {etag}").format(etag=current),
                    extra={"current_etag": current},
                    headers={"ETag": current},
                )
            return
        if "*" not in self.match and current not in self.match:  # a weak one is never equal
            raise stale(current)

    def check_absent(self) -> None:
        """There is nothing here: whoever named a version saw something else. Problem: stale (412)."""
        self.checked = True
        if self.match is not None:
            raise stale(None)

    def not_modified(self, current: str) -> bool:
        """Whether the reader has this already."""
        return self.none_match is not None and any(tag in {"*", current, f"W/{current}"} for tag in self.none_match)
