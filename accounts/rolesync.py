"""Keep the groups of the built-in roles in step with the table of roles."""

from typing import Any

from django.apps import AppConfig, apps
from django.contrib.auth.models import Group, Permission
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from accounts import roles
from accounts.models import BuiltinRole
from core.scope import Reach


def sync_roles() -> None:
    """Make the four groups and set their permissions; idempotent. Groups that somebody else made stay as they are."""
    every = {f"{app}.{codename}": pk for pk, app, codename in Permission.objects.values_list("pk", "content_type__app_label", "codename")}
    with transaction.atomic():
        known = {role.key: role.group for role in BuiltinRole.objects.select_related("group")}
        for role in roles.ROLES.values():
            group = known.get(role.key)
            if group is None:
                group = Group.objects.create(name=_free_name(role.key))
                BuiltinRole.objects.create(key=role.key, group=group)
            wanted = {pk for name, pk in every.items() if role.reach(name) is not Reach.NONE}
            if wanted != set(group.permissions.values_list("pk", flat=True)):
                group.permissions.set(wanted)


def _free_name(key: str) -> str:
    """The role's own word, unless an administrator has a group of this name."""
    name = key
    while Group.objects.filter(name=name).exists():
        name += " (mqadmin)"
    return name


def after_migrate(sender: AppConfig, using: str = DEFAULT_DB_ALIAS, **_kwargs: Any) -> None:
    """Once all apps have made their permissions; not while an old state of the database has no such table."""
    last = list(apps.get_app_configs())[-1]
    if sender.name == last.name and BuiltinRole._meta.db_table in connections[using].introspection.table_names():  # noqa: SLF001
        sync_roles()


def group_of(key: str) -> Group:
    """The group of a role."""
    return Group.objects.get(builtin__key=key)


def roles_of(person: Any) -> list[roles.Role]:
    """The built-in roles that somebody has; who is a superuser is an administrator by that."""
    keys = set(BuiltinRole.objects.filter(group__user=person.pk).values_list("key", flat=True))
    if person.is_superuser:
        keys.add(roles.ADMINISTRATOR)
    return [role for role in roles.ROLES.values() if role.key in keys]
