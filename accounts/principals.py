"""An application that asks by its key: where the API wants a person, it gets one of these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models.expressions import RawSQL

from accounts.roles import KEY_PERMISSIONS
from core.scope import Reach

if TYPE_CHECKING:
    from accounts.models import ApplicationKey


class KeyPrincipal:
    """The application behind a key; it is nobody in the database (`pk` is None) and reaches its own application only."""

    is_authenticated = is_active = True
    is_anonymous = is_staff = is_superuser = False
    pk = id = None
    token = None

    def __init__(self, key: ApplicationKey) -> None:
        self.key = key
        self.application = key.application
        self._ids = frozenset({key.application_id})

    def __str__(self) -> str:
        return self.get_username()

    def get_username(self) -> str:
        """As the audit names it: `key:APPLICATION/KEY`."""
        return f"key:{self.application.name}/{self.key.key_id}"

    def reach(self, permission: str) -> Reach:
        """Its own things, of the few permissions that a key has."""
        return Reach.OWN if permission in KEY_PERMISSIONS else Reach.NONE

    def has_perm(self, perm: str, obj: Any = None) -> bool:  # noqa: ARG002 - Django's signature
        """Whether the permission reaches anything."""
        return perm in KEY_PERMISSIONS

    def has_perms(self, perms: Any, obj: Any = None) -> bool:  # noqa: ARG002 - Django's signature
        """All of them."""
        return all(self.has_perm(perm) for perm in perms)

    def get_all_permissions(self, obj: Any = None) -> set[str]:  # noqa: ARG002 - Django's signature
        """What a key may."""
        return set(KEY_PERMISSIONS)

    def own_applications(self) -> RawSQL:
        """Its application, as a subquery."""
        return RawSQL("SELECT %s::bigint", (self.key.application_id,))

    def owns(self, application_id: int) -> bool:
        """Whether it is this one."""
        return application_id == self.key.application_id

    def own_application_ids(self) -> frozenset[int]:
        """Its application."""
        return self._ids
