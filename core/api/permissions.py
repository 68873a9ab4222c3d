"""Permissions of the API: reading needs one too."""

from typing import Any

from django.utils.translation import gettext as _
from rest_framework import permissions
from rest_framework.request import Request

from core.errors import Problem


def require(user: Any, permission: str) -> None:
    """Refuse with the problem `forbidden`, naming the permission that is missing."""
    if not user.has_perm(permission):
        raise Problem(
            "forbidden",
            _("You need the permission “{permission}” for this.").format(permission=permission),
            status=403,
            hint=_("An administrator grants it."),
        )


class ModelPermissions(permissions.BasePermission):
    """A view names what each action needs in `permissions_by_action`; what is not named is refused."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """DRF's hook."""
        if not request.user.is_authenticated:
            return False
        if request.method == "OPTIONS":
            return True
        method = str(request.method).lower()
        action = getattr(view, "action", None) or {"head": "get"}.get(method, method)
        needed = getattr(view, "permissions_by_action", {}).get(action)
        if needed is None:
            return getattr(view, "action", "") is None or not hasattr(view, method)  # no such method here: DRF answers 405
        if needed:
            require(request.user, needed)
        return True
