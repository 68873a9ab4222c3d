"""Credentials in the console: one's tokens, keys of applications, sessions of browsers, and who is locked out."""

from datetime import datetime, timedelta
from typing import Any, ClassVar

from axes.models import AccessAttempt
from django import forms
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import credentials, lockout, people
from accounts.models import ApiToken, Application, ApplicationKey, PersonSession
from accounts.roles import SCOPES
from core.console.actions import NOT_ALLOWED, Action
from core.console.lists import Filter, ListPage, View
from core.console.pages import ConsoleForm, FormPage, attach, get, person
from core.console.slots import Column
from core.errors import Problem
from core.scope import Reach, reach_of


class Made(FormPage):
    """A form whose answer shows a secret, once: rendered at once, so that it stands in no cookie and no session."""

    def post(self, request: HttpRequest, *_args: Any, **_kwargs: Any) -> HttpResponse:
        """Make it and show it."""
        form = self.narrowed(self.form_class(request.POST, initial=self.initial(), **self.form_arguments()))
        if not form.is_valid():
            return self.page(form)
        try:
            shown = self.make(form)
        except Problem as problem:
            attach(form, problem)
            return self.page(form)
        return self.show({"age": None, **self.context(), **shown}, template="accounts/secret.html")

    def make(self, form: Any) -> dict[str, Any]:
        """Call the service; what the page of the secret shows."""
        raise NotImplementedError


class Tokens(ListPage[ApiToken]):
    """One's own tokens; administrators and auditors see all."""

    permission = "accounts.view_apitoken"
    here = "tokens"
    title = gettext_lazy("API tokens")
    model = ApiToken
    template_name = "accounts/tokens.html"
    columns = [
        Column("name", gettext_lazy("Name"), sort=("name",), value="name"),
        Column("user", gettext_lazy("Person"), sort=("user__username", "name"), value="user.username"),
        Column("scopes", gettext_lazy("Scopes"), value=lambda row: " ".join(row.scopes)),
        Column("hint", gettext_lazy("Begins with"), value="hint"),
        Column("used", gettext_lazy("Last used"), sort=("last_used_at",), css="num", value="last_used_at"),
        Column("expires", gettext_lazy("Expires"), sort=("expires_at",), css="num", value="expires_at"),
        Column("revoke", "", css="num"),
    ]
    search_fields = ("name", "user__username", "hint")
    default_sort = "name"
    views = [
        View("mine", gettext_lazy("Mine"), lambda rows, request: rows.filter(user=request.user.pk)),
        View("all", gettext_lazy("All"), lambda rows, _request: rows),
    ]

    def annotated(self, queryset: QuerySet[ApiToken, ApiToken]) -> QuerySet[ApiToken, ApiToken]:
        """With their people."""
        return queryset.select_related("user")

    def decorate(self, rows: list[ApiToken]) -> None:
        """The button of each."""
        reach = reach_of(self.request.user, "accounts.delete_apitoken")
        for row in rows:
            allowed = reach is Reach.ALL or (reach is Reach.OWN and row.user_id == self.request.user.pk)
            url = reverse("admin:accounts_token_revoke", args=[row.pk])
            row.action = Action(_("Revoke"), url, "", "s danger", why="" if allowed else NOT_ALLOWED)  # type: ignore[attr-defined]

    def context(self) -> dict[str, Any]:
        """Who may make one."""
        why = "" if self.request.user.has_perm("accounts.add_apitoken") else NOT_ALLOWED
        return {"add": Action(_("Make a token"), reverse("admin:accounts_token_add"), "plus", "primary", why=why)}


class TokenForm(ConsoleForm):
    """What a token is for, and until when."""

    name = forms.CharField(
        max_length=120, label=gettext_lazy("Name"), help_text=gettext_lazy("What uses it, for example “ci of order-service”.")
    )
    scopes = forms.MultipleChoiceField(
        choices=list(SCOPES.items()),
        label=gettext_lazy("May be used to"),
        widget=forms.CheckboxSelectMultiple,
        help_text=gettext_lazy("It never may more than you do."),
    )
    days = forms.IntegerField(label=gettext_lazy("Expires after so many days"), min_value=1, initial=90)


class AddToken(Made):
    """Make a token of one's own."""

    permission = "accounts.add_apitoken"
    here = "tokens"
    title = gettext_lazy("Make a token")
    template_name = "accounts/token.html"
    form_class = TokenForm
    submit_label = gettext_lazy("Make it")

    def initial(self) -> dict[str, Any]:
        """To read."""
        return {"scopes": ["read"], "days": 90}

    def context(self) -> dict[str, Any]:
        """The way back."""
        back = reverse("admin:accounts_tokens")
        return {"crumbs": [(_("API tokens"), back)], "back": back}

    def make(self, form: TokenForm) -> dict[str, Any]:
        """Make it."""
        data = form.cleaned_data
        try:
            expires_at = timezone.now() + timedelta(days=data["days"])
        except OverflowError:
            expires_at = datetime.max.replace(tzinfo=timezone.get_current_timezone())
        token, secret = credentials.make_token(actor=person(self.request), name=data["name"], scopes=data["scopes"], expires_at=expires_at)
        return {"secret": secret, "thing": token.name, "usage": f"Authorization: Token {secret}"}


class Revoke(FormPage):
    """A page that ends a credential."""

    form_class = ConsoleForm
    tone = "danger solid"
    submit_label = gettext_lazy("Revoke")
    list_url: ClassVar[str] = ""
    list_label: Any = ""

    def thing(self) -> Any:
        """What the address names."""
        raise NotImplementedError

    def end(self) -> None:
        """Call the service."""
        raise NotImplementedError

    def check(self) -> None:
        """It is there."""
        self.thing()

    def context(self) -> dict[str, Any]:
        """Which one."""
        back = reverse(self.list_url)
        return {"crumbs": [(self.list_label, back)], "back": back, "title": str(self.title).format(name=self.thing())}

    def perform(self, form: ConsoleForm) -> str:  # noqa: ARG002
        """End it."""
        self.said = str(self.thing())
        self.end()
        return reverse(self.list_url)

    def success(self, form: ConsoleForm) -> Any:  # noqa: ARG002
        """When it takes effect."""
        return _("{name} ends within five seconds.").format(name=self.said)


class RevokeToken(Revoke):
    """Revoke a token and those that were made with it."""

    permission = "accounts.delete_apitoken"
    here = "tokens"
    title = gettext_lazy("Revoke {name}")
    list_url = "admin:accounts_tokens"
    list_label = gettext_lazy("API tokens")

    def thing(self) -> ApiToken:
        """One that the person may revoke."""
        return get(ApiToken.objects.restrict(self.request.user, self.permission).select_related("user"), pk=self.kwargs["pk"])

    def end(self) -> None:
        """Revoke it."""
        credentials.revoke_token(actor=person(self.request), token=self.thing())


class Keys(ListPage[ApplicationKey]):
    """Keys that applications sign with."""

    permission = "accounts.view_applicationkey"
    here = "keys"
    title = gettext_lazy("Application keys")
    model = ApplicationKey
    template_name = "accounts/keys.html"
    columns = [
        Column("key", gettext_lazy("Key"), sort=("key_id",), value="key_id"),
        Column("application", gettext_lazy("Application"), sort=("application__name",), value="application.name"),
        Column("name", gettext_lazy("Name"), sort=("name",), value="name"),
        Column("state", gettext_lazy("Status"), sort=("revoked_at", "expires_at")),
        Column("by", gettext_lazy("Made by"), css="hide-m", value="created_by.username"),
        Column("used", gettext_lazy("Last used"), sort=("last_used_at",), css="num", value="last_used_at"),
        Column("expires", gettext_lazy("Expires"), sort=("expires_at",), css="num", value="expires_at"),
        Column("revoke", "", css="num"),
    ]
    search_fields = ("key_id", "name", "application__name")
    default_sort = "application"
    views = [
        View(
            "valid",
            gettext_lazy("Valid"),
            lambda rows, _request: rows.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()), revoked_at=None),
        ),
        View("all", gettext_lazy("All"), lambda rows, _request: rows),
    ]
    filters = [
        Filter(
            "application",
            gettext_lazy("Application"),
            lambda request: [(name, name) for name in Application.objects.restrict(request.user).values_list("name", flat=True)[:200]],
            lambda rows, value: rows.filter(application__name=value),
        )
    ]

    def annotated(self, queryset: QuerySet[ApplicationKey, ApplicationKey]) -> QuerySet[ApplicationKey, ApplicationKey]:
        """With application and maker, without the secret."""
        return queryset.select_related("application", "created_by").defer("secret")

    def decorate(self, rows: list[ApplicationKey]) -> None:
        """The button of each."""
        why = "" if self.request.user.has_perm("accounts.delete_applicationkey") else NOT_ALLOWED
        for row in rows:
            over = why or ("" if row.revoked_at is None else _("It is revoked."))
            row.action = Action(_("Revoke"), reverse("admin:accounts_key_revoke", args=[row.key_id]), "", "s danger", why=over)  # type: ignore[attr-defined]

    def context(self) -> dict[str, Any]:
        """Who may make one."""
        why = "" if self.request.user.has_perm("accounts.add_applicationkey") else NOT_ALLOWED
        return {"add": Action(_("Make a key"), reverse("admin:accounts_key_add"), "plus", "primary", why=why)}


class KeyForm(ConsoleForm):
    """Whose key it is, and until when."""

    application = forms.ModelChoiceField(Application.objects.order_by("name"), to_field_name="name", label=gettext_lazy("Application"))
    name = forms.CharField(
        max_length=120, required=False, label=gettext_lazy("Name"), help_text=gettext_lazy("What uses it, for example “production”.")
    )
    days = forms.IntegerField(
        label=gettext_lazy("Expires after so many days"),
        min_value=1,
        max_value=3650,
        required=False,
        help_text=gettext_lazy("Empty: until it is revoked."),
    )


class AddKey(Made):
    """Make a key for an application."""

    permission = "accounts.add_applicationkey"
    here = "keys"
    title = gettext_lazy("Make an application key")
    form_class = KeyForm
    submit_label = gettext_lazy("Make it")

    def context(self) -> dict[str, Any]:
        """The way back."""
        back = reverse("admin:accounts_keys")
        return {"crumbs": [(_("Application keys"), back)], "back": back}

    def make(self, form: KeyForm) -> dict[str, Any]:
        """Make it."""
        data = form.cleaned_data
        expires_at = timezone.now() + timedelta(days=data["days"]) if data["days"] else None
        key, secret = credentials.make_key(
            actor=person(self.request), application=data["application"], name=data["name"], expires_at=expires_at
        )
        return {
            "secret": secret,
            "thing": f"{data['application'].name} · {key.key_id}",
            "usage": f"MQADMIN_KEY={key.key_id}\nMQADMIN_SECRET={secret}",
        }


class RevokeKey(Revoke):
    """Revoke a key."""

    permission = "accounts.delete_applicationkey"
    here = "keys"
    title = gettext_lazy("Revoke {name}")
    list_url = "admin:accounts_keys"
    list_label = gettext_lazy("Application keys")

    def thing(self) -> ApplicationKey:
        """One that the person may revoke."""
        rows = ApplicationKey.objects.restrict(self.request.user, self.permission).select_related("application").defer("secret")
        return get(rows, key_id=self.kwargs["key_id"])

    def end(self) -> None:
        """Revoke it."""
        credentials.revoke_key(actor=person(self.request), key=self.thing())


ADMINISTER = "accounts.administer_user"


class Sessions(ListPage[PersonSession]):
    """Where one is signed in; administrators see everybody's."""

    here = "sessions"
    title = gettext_lazy("Sessions")
    model = PersonSession
    template_name = "accounts/sessions.html"
    columns = [
        Column("user", gettext_lazy("Person"), sort=("user__username", "-active_at"), value="user.username"),
        Column("agent", gettext_lazy("Browser"), css="max", value="agent"),
        Column("address", gettext_lazy("Address"), sort=("address",), value="address"),
        Column("since", gettext_lazy("Signed in"), sort=("-created_at",), css="num", value="created_at"),
        Column("active", gettext_lazy("Last active"), sort=("-active_at",), css="num", value="active_at"),
        Column("end", "", css="num"),
    ]
    search_fields = ("user__username", "agent", "address")
    default_sort = "active"
    views = [
        View("mine", gettext_lazy("Mine"), lambda rows, request: rows.filter(user=request.user.pk)),
        View("all", gettext_lazy("All"), lambda rows, _request: rows),
    ]

    def queryset(self) -> QuerySet[PersonSession, PersonSession]:
        """Those that have not ended; of others only for administrators."""
        return sessions_of(self.request)

    def annotated(self, queryset: QuerySet[PersonSession, PersonSession]) -> QuerySet[PersonSession, PersonSession]:
        """With their people."""
        return queryset.select_related("user")

    def decorate(self, rows: list[PersonSession]) -> None:
        """Which one is this one."""
        for row in rows:
            row.here = row.pk == self.request.session.session_key  # type: ignore[attr-defined]
            row.ref = reference(row)  # type: ignore[attr-defined]

    def context(self) -> dict[str, Any]:
        """The button that ends the others."""
        others = Action(_("End all my other sessions"), reverse("admin:accounts_sessions_end"), "stop", "danger")
        return {"others": others, "locked": lockout.locked().count() if self.request.user.has_perm(ADMINISTER) else 0}


def reference(session: PersonSession) -> str:
    """What stands in addresses instead of the session's key, which is as good as a password."""
    return ApiToken.digest_of(f"session:{session.pk}")[:32]


def sessions_of(request: HttpRequest) -> QuerySet[PersonSession, PersonSession]:
    """The sessions that somebody may see and end."""
    rows = PersonSession.objects.filter(user__isnull=False, expire_date__gt=timezone.now())
    return rows if request.user.has_perm(ADMINISTER) else rows.filter(user=request.user.pk or 0)


class EndSession(Revoke):
    """End one session."""

    here = "sessions"
    title = gettext_lazy("End the session of {name}")
    submit_label = gettext_lazy("End it")
    list_url = "admin:accounts_sessions"
    list_label = gettext_lazy("Sessions")

    def session(self) -> PersonSession:
        """The one that the address stands for."""
        found = next((row for row in sessions_of(self.request).select_related("user") if reference(row) == self.kwargs["ref"]), None)
        return get(PersonSession.objects.select_related("user"), pk=found.pk if found else "")

    def thing(self) -> Any:
        """Whose."""
        return self.session().user

    def end(self) -> None:
        """End it."""
        people.end_session(actor=person(self.request), session=self.session())


class EndSessions(Revoke):
    """End all of one's other sessions."""

    here = "sessions"
    title = gettext_lazy("End all other sessions of {name}")
    submit_label = gettext_lazy("End them")
    list_url = "admin:accounts_sessions"
    list_label = gettext_lazy("Sessions")

    def thing(self) -> Any:
        """Oneself."""
        return person(self.request)

    def end(self) -> None:
        """All but this one."""
        people.end_sessions(actor=person(self.request), person=person(self.request), keep=self.request.session.session_key)


class Lockouts(ListPage[AccessAttempt]):
    """Who is refused at the login for now."""

    permission = ADMINISTER
    here = "sessions"
    title = gettext_lazy("Locked out")
    model = AccessAttempt
    template_name = "accounts/lockouts.html"
    columns = [
        Column("name", gettext_lazy("Name"), sort=("username",), value="username"),
        Column("address", gettext_lazy("Address"), sort=("ip_address",), value="ip_address"),
        Column("tries", gettext_lazy("Wrong passwords"), sort=("failures_since_start",), css="num", value="failures_since_start"),
        Column("until", gettext_lazy("Until"), css="num", value=lockout.until),
        Column("unlock", "", css="num"),
    ]
    search_fields = ("username", "ip_address")
    default_sort = "name"

    def queryset(self) -> QuerySet[AccessAttempt, AccessAttempt]:
        """Those that are refused now."""
        rows: QuerySet[AccessAttempt, AccessAttempt] = lockout.locked()
        return rows

    def decorate(self, rows: list[AccessAttempt]) -> None:
        """Until when, and the button."""
        for row in rows:
            row.until = lockout.until(row)
            row.action = Action(_("Unlock"), reverse("admin:accounts_unlock", args=[row.pk]), "", "s")


class Unlock(Revoke):
    """Let somebody try again."""

    permission = ADMINISTER
    here = "sessions"
    title = gettext_lazy("Unlock {name}")
    submit_label = gettext_lazy("Unlock")
    tone = "primary"
    list_url = "admin:accounts_lockouts"
    list_label = gettext_lazy("Locked out")

    def attempt(self) -> AccessAttempt:
        """The one of the address."""
        if not self.request.user.has_perm(ADMINISTER):
            raise PermissionDenied
        found: AccessAttempt = get(lockout.locked(), pk=self.kwargs["pk"])
        return found

    def thing(self) -> Any:
        """The name."""
        return self.attempt().username

    def end(self) -> None:
        """Unlock."""
        lockout.unlock(actor=person(self.request), attempt=self.attempt())

    def success(self, form: ConsoleForm) -> Any:  # noqa: ARG002
        """Said plainly."""
        return _("{name} can sign in again.").format(name=self.said)


urlpatterns = [
    path("tokens/", Tokens.as_view(), name="accounts_tokens"),
    path("tokens/add/", AddToken.as_view(), name="accounts_token_add"),
    path("tokens/<int:pk>/revoke/", RevokeToken.as_view(), name="accounts_token_revoke"),
    path("keys/", Keys.as_view(), name="accounts_keys"),
    path("keys/add/", AddKey.as_view(), name="accounts_key_add"),
    path("keys/<slug:key_id>/revoke/", RevokeKey.as_view(), name="accounts_key_revoke"),
    path("sessions/", Sessions.as_view(), name="accounts_sessions"),
    path("sessions/end-others/", EndSessions.as_view(), name="accounts_sessions_end"),
    path("sessions/<slug:ref>/end/", EndSession.as_view(), name="accounts_session_end"),
    path("lockouts/", Lockouts.as_view(), name="accounts_lockouts"),
    path("lockouts/<int:pk>/unlock/", Unlock.as_view(), name="accounts_unlock"),
]
