"""Roles: one table, the groups that follow it, and how far what a person is granted reaches."""

import pytest
from conftest import token_for
from django.contrib.auth.models import AnonymousUser, Group, Permission

from accounts import roles
from accounts.models import ApiToken, Application, BuiltinRole, User
from accounts.rolesync import group_of, sync_roles
from core.scope import Reach

pytestmark = pytest.mark.django_db

# Of Django itself: nobody but administrators.
FRAMEWORK = ("admin.", "auth.", "contenttypes.", "sessions.", "accounts.", "axes.", "registry.", "approvals.")


def person(name, *role, **values):
    made = User.objects.create_user(name, is_staff=True, **values)
    made.groups.set(group_of(key) for key in role)
    return User.objects.get(pk=made.pk)


def every_permission():
    return {f"{app}.{code}" for app, code in Permission.objects.values_list("content_type__app_label", "codename")}


def test_every_permission_stands_in_the_table_and_every_row_exists():
    missing = {name for name in every_permission() - set(roles.TABLE) if not name.startswith(FRAMEWORK)}
    assert not missing, "add them to accounts.roles.TABLE"
    assert not set(roles.TABLE) - every_permission()


def test_the_groups_follow_the_table_and_others_stay_untouched():
    own = Group.objects.create(name="night shift")
    own.permissions.set(Permission.objects.filter(codename="view_topic"))
    operator = group_of(roles.OPERATOR)
    operator.permissions.clear()
    sync_roles()
    sync_roles()
    granted = {f"{app}.{code}" for app, code in operator.permissions.values_list("content_type__app_label", "codename")}
    assert granted == {name for name, row in roles.TABLE.items() if row.operator is not Reach.NONE}
    assert [p.codename for p in own.permissions.all()] == ["view_topic"]
    assert BuiltinRole.objects.count() == len(roles.ROLES)


def test_a_group_of_the_same_name_that_was_there_before_is_not_taken_over():
    BuiltinRole.objects.all().delete()
    Group.objects.filter(name="auditor").delete()
    own = Group.objects.create(name="auditor")
    sync_roles()
    assert own.permissions.count() == 0
    assert group_of(roles.AUDITOR).name == "auditor (mqadmin)"


@pytest.mark.parametrize("key", [roles.OPERATOR, roles.DEVELOPER, roles.AUDITOR])
def test_a_person_of_a_role_may_what_the_table_says(key):
    somebody = person("p", key)
    for name in every_permission():
        wanted = getattr(roles.TABLE[name], key) if name in roles.TABLE else Reach.NONE
        assert somebody.reach(name) is wanted, name
        assert somebody.has_perm(name) is (wanted is not Reach.NONE)
    assert somebody.get_all_permissions() == {n for n, r in roles.TABLE.items() if getattr(r, key) is not Reach.NONE}
    assert not somebody.has_module_perms("sessions")


def test_administrators_may_everything_by_role_as_by_flag():
    for somebody in (person("a", roles.ADMINISTRATOR), User.objects.create_superuser("s")):
        assert somebody.get_all_permissions() == every_permission()
        assert somebody.reach("accounts.administer_user") is Reach.ALL


def test_the_widest_grant_counts_and_what_is_granted_directly_reaches_all():
    developer = person("d", roles.DEVELOPER)
    assert developer.reach("topics.view_topic") is Reach.OWN
    developer.user_permissions.add(Permission.objects.get(codename="view_topic"))
    assert User.objects.get(pk=developer.pk).reach("topics.view_topic") is Reach.ALL
    both = person("b", roles.DEVELOPER, roles.AUDITOR)
    assert (both.reach("topics.view_topic"), both.reach("topics.add_topic")) == (Reach.ALL, Reach.OWN)
    group = Group.objects.create(name="lookers")
    group.permissions.add(Permission.objects.get(codename="view_topic"))
    looker = person("l")
    looker.groups.add(group)
    assert looker.reach("topics.view_topic") is Reach.ALL


def test_who_is_not_active_may_nothing():
    assert person("x", roles.ADMINISTRATOR, is_active=False).get_all_permissions() == set()
    assert not User.objects.create_superuser("y", is_active=False).has_perm("topics.view_topic")


def test_own_applications_are_those_that_one_owns_or_is_a_member_of(django_assert_num_queries):
    developer, other = person("d", roles.DEVELOPER), person("o", roles.DEVELOPER)
    mine = Application.objects.create(name="mine", owner=developer)
    joined = Application.objects.create(name="joined", owner=other)
    joined.members.add(developer)
    Application.objects.create(name="theirs", owner=other)
    with django_assert_num_queries(2):  # what is granted, and the list: ownership is part of it
        assert {row.name for row in Application.objects.restrict(developer)} == {"mine", "joined"}
    assert developer.own_application_ids() == {mine.pk, joined.pk}
    assert Application.objects.restrict(User.objects.create_superuser("s")).count() == 3
    assert not Application.objects.restrict(AnonymousUser()).exists()
    assert not Application.objects.restrict(person("nobody")).exists()


def test_a_token_only_narrows_what_its_person_may():
    root = User.objects.create_superuser("root")
    token_for(root)
    token = ApiToken.objects.get(user=root)
    assert token.scopes == list(roles.SCOPES)
    token.scopes = ["read", "produce"]
    root.token = token
    assert root.has_perm("topics.view_topic")
    assert root.has_perm("mq_messages.send_message")
    for refused in ("topics.add_topic", "topics.approve_topic", "mq_messages.consume_message", "accounts.administer_user", "made.up"):
        assert not root.has_perm(refused)
        assert root.reach(refused) is Reach.NONE
    assert {roles.scope_of(name) for name in root.get_all_permissions()} == {"read", "produce"}
    assert not root.has_module_perms("sessions")
