"""People, roles, credentials and sessions in the console, the throttled login, and the audit of all of it."""

import pytest
from conftest import Api
from console_world import PASSWORD, make_people
from django.contrib.auth.models import Group
from django.test import Client
from django.urls import reverse

from accounts import authentication
from accounts.models import ApiToken, Application, ApplicationKey, PersonSession, User
from accounts.roles import DEVELOPER, OPERATOR
from accounts.rolesync import group_of
from core.audit.models import AuditEntry

pytestmark = pytest.mark.django_db


@pytest.fixture
def people():
    authentication._tokens.clear()
    return make_people()


def page(name, *args):
    return reverse(f"admin:{name}", args=args)


def signed_in(name, password=PASSWORD, client=None):
    client = client or Client(HTTP_USER_AGENT="Firefox on a desk")
    response = client.post(page("login"), {"username": name, "password": password})
    client.answer = response
    return client


def entries(**lookup):
    return [(e.action, e.kind, e.name) for e in AuditEntry.objects.filter(**lookup).order_by("pk")]


def developer(name="dana"):
    made = User.objects.create_user(name, password=PASSWORD, is_staff=True)
    made.groups.add(group_of(DEVELOPER))
    return made


def test_a_token_is_shown_once_and_stands_in_no_cookie(people):
    client = signed_in("alice")
    somebody_else = {"user": people.bob.pk}  # is nobody's to choose, administrators' neither: it would be a second pair of eyes
    made = client.post(page("accounts_token_add"), {"name": "ci", "scopes": ["read"], "days": 30, **somebody_else})
    secret = made.context["secret"]
    assert made.status_code == 200
    assert secret in made.content.decode()
    assert "no-store" in made.headers["Cache-Control"]
    assert not any(secret in cookie.value for cookie in client.cookies.values())
    assert Api(Client(), secret)("get", "me").body["scopes"] == ["read"]
    listed = client.get(page("accounts_tokens")).content.decode()
    assert secret not in listed
    token = ApiToken.objects.get(name="ci")
    assert token.user == people.alice
    assert token.hint in listed
    assert client.post(page("accounts_token_revoke", token.pk)).status_code == 302
    assert Api(Client(), secret)("get", "me").status_code == 401
    assert client.post(page("accounts_token_add"), {"name": "ci", "scopes": ["read"], "days": 4000}).status_code == 200
    assert not ApiToken.objects.filter(user=people.alice).exists()


def test_a_developer_makes_keys_of_own_applications_only(people):
    dana = developer()
    mine = Application.objects.create(name="mine", owner=dana)
    Application.objects.create(name="theirs", owner=people.alice)
    client = signed_in("dana")
    assert b"theirs" not in client.get(page("accounts_key_add")).content
    assert client.post(page("accounts_key_add"), {"application": "theirs"}).context["form"].errors
    made = client.post(page("accounts_key_add"), {"application": "mine", "name": "prod", "days": ""})
    key = ApplicationKey.objects.get()
    assert key.application == mine
    assert made.context["secret"] == key.secret.reveal()
    assert client.post(page("accounts_key_revoke", key.key_id)).status_code == 302
    assert client.get(page("accounts_keys"), {"view": "all"}).status_code == 200
    assert signed_in("reader").get(page("accounts_key_add")).status_code == 403


def test_sessions_are_listed_and_ended(people):
    here, there = signed_in("alice"), signed_in("alice", client=Client(HTTP_USER_AGENT="Phone"))
    signed_in("bob")
    shown = here.get(page("accounts_sessions"))
    assert {row.agent for row in shown.context["rows"]} == {"Firefox on a desk", "Phone"}
    assert not any(row.pk in shown.content.decode() for row in shown.context["rows"]), "a key is as good as a password"
    other = next(row for row in shown.context["rows"] if not row.here)
    assert here.post(page("accounts_session_end", other.ref)).status_code == 302
    assert there.get(page("accounts_sessions")).status_code == 302
    assert {row.user.username for row in here.get(page("accounts_sessions"), {"view": "all"}).context["rows"]} == {"alice", "bob"}
    dana = signed_in(developer().username)
    assert {row.user.username for row in dana.get(page("accounts_sessions"), {"view": "all"}).context["rows"]} == {"dana"}
    bobs = next(row for row in here.get(page("accounts_sessions"), {"view": "all"}).context["rows"] if row.user.username == "bob")
    assert dana.post(page("accounts_session_end", bobs.ref)).status_code == 404
    signed_in("alice")
    assert here.post(page("accounts_sessions_end")).status_code == 302
    assert PersonSession.objects.filter(user=people.alice).count() == 1
    assert ("end session", "person", "alice") in entries()


def test_a_new_password_and_a_switched_off_account_end_other_sessions(people):
    here, there = signed_in("alice"), signed_in("alice")
    new = "another horse battery"
    assert here.post(page("password_change"), {"old_password": PASSWORD, "new_password1": new, "new_password2": new}).status_code == 302
    assert here.get(page("accounts_sessions")).status_code == 200
    assert there.get(page("accounts_sessions")).status_code == 302
    assert PersonSession.objects.filter(user=people.alice).count() == 1
    bob = signed_in("bob")
    form = {"username": "bob", "is_staff": "on", "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    assert here.post(page("accounts_user_change", people.bob.pk), form).status_code == 302
    assert bob.get(page("accounts_sessions")).status_code == 302
    assert not PersonSession.objects.filter(user=people.bob).exists()
    assert not [e for e in AuditEntry.objects.all() if new in str((e.before, e.after))]
    assert ("change password", "person", "alice") in entries()
    entry = AuditEntry.objects.get(kind="person", action="change", name="bob")
    assert (entry.before["is_active"], entry.after["is_active"]) == (True, False)


def test_too_many_wrong_passwords_lock_a_name_out_for_a_while(people, settings):
    for _ in range(settings.AXES_FAILURE_LIMIT):
        refused = signed_in("alice", "wrong").answer
    assert refused.status_code == 429
    assert "Try again in 15 minutes" in refused.content.decode()
    assert 0 < int(refused.headers["Retry-After"]) <= 900
    assert signed_in("alice").answer.status_code == 429, "the right one neither"
    assert signed_in("bob").answer.status_code == 302, "others can"
    elsewhere = Client(REMOTE_ADDR="10.9.9.9")
    assert signed_in("alice", client=elsewhere).answer.status_code == 302, "nobody locks her out from afar"
    assert elsewhere.get(page("index")).status_code == 200
    _token, secret = ApiToken.issue(user=people.alice, name="t", expires_at=people.alice.date_joined.replace(year=2100))
    assert Api(Client(), secret)("get", "me").status_code == 200
    bob = signed_in("bob")
    attempt = bob.get(page("accounts_lockouts")).context["rows"][0]
    assert attempt.username == "alice"
    assert signed_in("reader").get(page("accounts_lockouts")).status_code == 403
    assert bob.post(page("accounts_unlock", attempt.pk)).status_code == 302
    assert signed_in("alice").answer.status_code == 302
    done = entries(kind="login")
    assert done.count(("wrong password", "login", "alice")) >= settings.AXES_FAILURE_LIMIT
    assert ("lock out", "login", "alice") in done
    assert ("unlock", "login", "alice") in done


def test_behind_a_proxy_a_name_is_locked_out_from_where_the_guessing_comes_and_nowhere_else(people, settings):
    settings.TRUSTED_PROXIES = ["127.0.0.0/8"]
    guessing, home = (Client(headers={"X-Forwarded-For": address}) for address in ("192.0.2.1", "192.0.2.2"))
    for _ in range(settings.AXES_FAILURE_LIMIT):
        refused = signed_in("alice", "wrong", client=guessing).answer
    assert refused.status_code == 429
    assert "Try again in 15 minutes" in refused.content.decode()
    assert signed_in("alice", client=home).answer.status_code == 302


def test_roles_are_given_by_administrators_and_the_built_in_ones_stay(people):
    alice, operator = signed_in("alice"), group_of(OPERATOR)
    fields = {"username": "nina", "usable_password": "true", "password1": PASSWORD, "password2": PASSWORD, "is_staff": "on"}
    assert alice.post(page("accounts_user_add"), {**fields, "groups": [operator.pk]}).status_code == 302
    nina = User.objects.get(username="nina")
    assert nina.has_perm("topics.approve_topic")
    entry = AuditEntry.objects.get(kind="person", action="create")
    assert entry.after["groups"] == ["operator"]
    assert PASSWORD not in str(entry.after)
    shown = alice.get(page("auth_group_change", operator.pk))
    assert shown.status_code == 200
    assert b'name="_save"' not in shown.content
    assert alice.post(page("auth_group_change", operator.pk), {"name": "x"}).status_code == 403
    assert alice.post(page("auth_group_delete", operator.pk), {"post": "yes"}).status_code in {302, 403}
    assert Group.objects.filter(pk=operator.pk).exists()
    assert b"Built in" in alice.get(page("auth_group_changelist")).content
    assert alice.post(page("auth_group_add"), {"name": "night shift", "permissions": []}).status_code == 302
    assert ("create", "role", "night shift") in entries()
    for name in ("accounts_user_add", "auth_group_add"):
        assert signed_in("nina").get(page(name)).status_code == 403


def test_an_application_is_as_strict_here_and_its_members_stand_in_the_audit(people):
    alice, dana = signed_in("alice"), developer()
    fields = {"owner": people.alice.pk, "description": ""}
    assert alice.post(page("accounts_application_add"), {**fields, "name": "no/slash"}).context["errors"]
    assert alice.post(page("accounts_application_add"), {**fields, "name": "shop"}).status_code == 302
    shop = Application.objects.get(name="shop")
    url = page("accounts_application_change", shop.pk)
    assert alice.post(url, {**fields, "members": [dana.pk]}).status_code == 302
    entry = AuditEntry.objects.get(kind="application", action="change")
    assert (entry.before, entry.after) == ({"members": []}, {"members": ["dana"]})
    shop.refresh_from_db()
    assert shop.version == 2
    assert alice.post(url, {**fields, "members": [dana.pk]}).status_code == 302
    shop.refresh_from_db()
    assert (shop.version, AuditEntry.objects.filter(kind="application", action="change").count()) == (2, 1), "nothing differed"
    client = signed_in("dana")
    assert client.get(url).status_code == 200
    assert b'name="owner"' not in client.get(url).content
    other = Application.objects.create(name="other", owner=people.alice)
    for name in ("change", "history"):
        assert client.get(page(f"accounts_application_{name}", other.pk)).status_code == 404
    assert b"other" not in client.get(page("accounts_application_changelist")).content.split(b"<tbody")[1].split(b"</tbody")[0]


def test_of_what_is_deleted_the_audit_keeps_what_it_was(people):
    application = Application.objects.create(name="old-service", owner=people.bob, description="not used any more")
    application.members.add(people.alice)
    form = {"post": "yes", "confirm_name": "old-service", "change_message": "tidying"}
    assert signed_in("alice").post(page("accounts_application_delete", application.pk), form).status_code == 302
    entry = AuditEntry.objects.get(kind="application", action="delete")
    told = [entry.before[name] for name in ("name", "owner", "members", "description")]
    assert (told, entry.after, entry.reason) == (["old-service", "bob", "alice", "not used any more"], None, "tidying")
    dana = User.objects.create_user("dana", password=PASSWORD)
    form = {"post": "yes", "confirm_name": "dana", "change_message": "has left"}
    assert signed_in("alice").post(page("accounts_user_delete", dana.pk), form).status_code == 302
    entry = AuditEntry.objects.get(kind="person", action="delete")
    assert entry.before["username"] == "dana"
    assert "password" not in entry.before
