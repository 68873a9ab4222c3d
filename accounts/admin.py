"""People, roles and applications in the console: Django's own pages, whose every write stands in the audit."""

from typing import Any, cast

from django import forms
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import people
from accounts.models import Application, User
from core.audit.services import record
from core.console.versions import facts_of
from core.errors import Problem
from core.names import check_name
from core.scope import Reach, may, reach_of

ADMINISTER = "accounts.administer_user"
SECRET = {"password", "password1", "password2", "usable_password"}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, QuerySet | list | tuple | set):
        return sorted(str(item) for item in value)
    return str(value)


class Audited:
    """Writes of an admin page as audit entries, with what the form changed and never a password."""

    audited_as = ""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Nothing is written, and no version counted, when nothing differs."""
        if not change or form.changed_data:
            super().save_model(request, obj, form, change)  # type: ignore[misc]

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        """Keep what changed for the entry."""
        names = [name for name in form.changed_data if name not in SECRET]
        fields = form.fields
        before = {name: _plain(self._initial(form, name)) for name in names if name in fields}
        after = {name: _plain(form.cleaned_data.get(name)) for name in names}
        if SECRET & set(form.changed_data):
            after["password"] = _("set")
        request.audited = (None if add else before, after)  # type: ignore[attr-defined]
        return super().construct_change_message(request, form, formsets, add)  # type: ignore[misc]

    @staticmethod
    def _initial(form: Any, name: str) -> Any:
        value = form.get_initial_for_field(form.fields[name], name)
        queryset = getattr(form.fields[name], "queryset", None)
        if queryset is not None and value is not None and not isinstance(value, list):
            return queryset.model._default_manager.filter(pk=value).first()  # noqa: SLF001 - Django's public API
        return value

    def _record(self, request: HttpRequest, action: str, thing: Any) -> None:
        before, after = getattr(request, "audited", (None, None))
        reason = request.POST.get("change_message", "")[:2000]
        record(actor=request.user, action=action, kind=self.audited_as, name=str(thing), before=before, after=after, reason=reason)  # type: ignore[arg-type]

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:  # noqa: ARG002 - Django's hook
        """Instead of Django's own log."""
        self._record(request, "create", obj)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:  # noqa: ARG002 - Django's hook
        """Instead of Django's own log."""
        if getattr(request, "audited", (None, {}))[1]:
            self._record(request, "change", obj)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        """Instead of Django's own log."""
        for thing in queryset:
            names = [field.name for field in thing._meta.get_fields() if not field.auto_created]  # noqa: SLF001 - Django's public API
            # What is gone can be looked up nowhere else.
            request.audited = ({name: told for name, (_digest, told) in facts_of(thing, names).items() if told}, None)  # type: ignore[attr-defined]
            self._record(request, "delete", thing)


class ForAdministrators:
    """Pages whose writes are administrators', whatever else somebody was granted: they could grant themselves everything."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Administrators."""
        return request.user.has_perm(ADMINISTER)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Administrators."""
        return request.user.has_perm(ADMINISTER)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """Administrators."""
        return request.user.has_perm(ADMINISTER)


class PlainChoices:
    """Choices without Django's small pictures beside the field, which lead away from the form."""

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Active people only."""
        if db_field.related_model is User:
            kwargs["queryset"] = User.objects.filter(is_active=True).order_by("username")
        return super().formfield_for_foreignkey(db_field, request, **kwargs)  # type: ignore[misc]

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """A plain choice."""
        field = super().formfield_for_dbfield(db_field, request, **kwargs)  # type: ignore[misc]
        for name in ("can_add_related", "can_change_related", "can_delete_related", "can_view_related"):
            if field is not None and hasattr(field.widget, name):
                setattr(field.widget, name, False)
        return field


@admin.register(User)
class PersonAdmin(Audited, ForAdministrators, UserAdmin[User]):
    """People and their roles."""

    audited_as = "person"
    list_display = ["username", "first_name", "last_name", "email", "roles", "is_active", "is_superuser", "last_login"]
    add_fieldsets = (
        (None, {"classes": ("wide",), "fields": ("username", "usable_password", "password1", "password2", "is_staff", "groups")}),
    )

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:  # noqa: ARG002
        """Whoever is added here is meant to sign in here."""
        return {"is_staff": True}

    @admin.display(description=gettext_lazy("Roles"))
    def roles(self, person: User) -> str:
        """By name, as far as they are groups; what is granted directly stands on the person's page."""
        return ", ".join(sorted(role.name for role in person.groups.all()))

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        """With their roles, in one statement for all."""
        return super().get_queryset(request).prefetch_related("groups")

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Roles are called what the console calls them: groups are consumers here."""
        if db_field.name == "groups":
            kwargs["label"] = _("Roles")
            kwargs["help_text"] = _("What the person may do; docs/security.md has the table of the built-in ones.")
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        """An account that is switched off is signed out."""
        super().save_model(request, obj, form, change)
        if change and not obj.is_active:
            people.end_sessions(actor=request.user, person=obj)  # type: ignore[arg-type]

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002 - Django's name
        """A new password ends the person's sessions."""
        with transaction.atomic():
            response = super().user_change_password(request, id, form_url)
            if request.method == "POST" and response.status_code == 302:
                keep = request.session.session_key if str(request.user.pk) == str(id) else None
                people.password_changed(actor=request.user, person=User.objects.get(pk=id), keep=keep)  # type: ignore[arg-type]
        return response

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """A password has an entry of its own."""
        if hasattr(request, "audited"):
            super().log_change(request, obj, message)


admin.site.unregister(Group)


@admin.register(Group)
class RoleAdmin(Audited, ForAdministrators, GroupAdmin):
    """Roles: the four built-in ones follow the table in code; others are the administrators' own."""

    shown_as = gettext_lazy("Roles")
    audited_as = "role"
    list_display = ["name", "origin"]

    @admin.display(description=gettext_lazy("Kind"))
    def origin(self, role: Group) -> str:
        """Where its permissions come from."""
        return _("Built in: its permissions are part of mqadmin") if hasattr(role, "builtin") else _("Your own: reaches all objects")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Group]:
        """With whether they are built in."""
        return super().get_queryset(request).select_related("builtin")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Not the built-in ones."""
        return super().has_change_permission(request, obj) and not hasattr(obj, "builtin")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Not the built-in ones."""
        return super().has_delete_permission(request, obj) and not hasattr(obj, "builtin")


class ApplicationForm(forms.ModelForm[Application]):
    """The name is as strict here as in the API."""

    def clean_name(self) -> str:
        """It becomes part of addresses and nodes."""
        try:
            return check_name(self.cleaned_data["name"])
        except Problem as problem:
            raise ValidationError(str(problem)) from None


@admin.register(Application)
class ApplicationAdmin(Audited, PlainChoices, admin.ModelAdmin[Application]):
    """Applications with their owners and members."""

    audited_as = "application"
    form = ApplicationForm
    fields = ["name", "owner", "members", "description"]
    list_display = ["name", "owner", "description", "created_at"]
    list_select_related = ["owner"]
    search_fields = ["name", "description", "owner__username"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Application]:
        """Those within reach."""
        rows = Application.objects.restrict(request.user)
        ordering = self.get_ordering(request)
        return rows.order_by(*ordering) if ordering else rows

    def has_change_permission(self, request: HttpRequest, obj: Application | None = None) -> bool:
        """Within the reach of the permission."""
        permission = "accounts.change_application"
        return request.user.has_perm(permission) if obj is None else may(request.user, permission, _Of(obj.pk))

    def has_delete_permission(self, request: HttpRequest, obj: Application | None = None) -> bool:
        """Within the reach of the permission."""
        permission = "accounts.delete_application"
        return request.user.has_perm(permission) if obj is None else may(request.user, permission, _Of(obj.pk))

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """The person who adds it answers for it, unless they say otherwise."""
        return {"owner": request.user.pk}

    def get_readonly_fields(self, request: HttpRequest, obj: Application | None = None) -> list[str]:
        """The name stands in ZooKeeper and in SDKs' configuration; who may not change all applications gives none away."""
        fixed = ["name"] if obj else []
        return fixed if reach_of(request.user, "accounts.change_application") is Reach.ALL else [*fixed, "owner"]

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Active people."""
        kwargs["queryset"] = User.objects.filter(is_active=True).order_by("username")
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: Application, form: Any, change: bool) -> None:
        """A change is a new version."""
        if change and form.changed_data:
            obj.version, obj.changed_at = obj.version + 1, timezone.now()
        elif not obj.owner_id:
            obj.owner = cast("User", request.user)
        super().save_model(request, obj, form, change)


class _Of:
    """An application as a thing that belongs to itself."""

    def __init__(self, pk: int) -> None:
        self.application_id = pk
