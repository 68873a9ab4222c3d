"""A button that says why it is off."""

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _

#: The reason shown on a button that a person may not use.
NOT_ALLOWED = _("You do not have the permission for this.")


@dataclass(frozen=True, slots=True)
class Action:
    """One button of a page's head; `why` is the reason for which it cannot be used now, empty if it can."""

    label: Any
    url: str
    icon: str = ""
    tone: str = ""  # "", "primary", "danger", "danger solid"
    why: Any = ""
