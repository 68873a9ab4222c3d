"""Names of topics, groups, clusters and applications: they become ZooKeeper nodes and parts of URLs."""

import re
from typing import Any

from django.utils.translation import gettext as _

from core.errors import FieldError, Problem

PATTERN = r"[A-Za-z0-9_.%-]{1,120}"
_NAME = re.compile(PATTERN)
# "." and ".." are no ZooKeeper path components; "zookeeper" is the server's own; the rest are words of our own URLs.
RESERVED = frozenset({".", "..", "zookeeper", "null", "new", "apply"})


def check_name(name: Any, *, pointer: str = "/name") -> str:
    """Return the name, or raise the problem `invalid_name` or `reserved_name` that says what is allowed."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        detail = _("“{name}” is not a valid name.").format(name=str(name)[:140])
        hint = _("Use 1 to 120 letters (A-Z, a-z), digits, and the signs _ . % -")
        raise Problem("invalid_name", detail, hint=hint, errors=[FieldError(pointer, hint)])
    if name.lower() in RESERVED:
        detail = _("The name “{name}” is reserved.").format(name=name)
        raise Problem("reserved_name", detail, hint=_("Choose another name."), errors=[FieldError(pointer, detail)])
    return name
