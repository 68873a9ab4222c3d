"""People, applications and tokens in the console."""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib import messages as flash
from django.contrib.auth.admin import UserAdmin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import ApiToken, Application, User

admin.site.register(User, UserAdmin)


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


@admin.register(Application)
class ApplicationAdmin(PlainChoices, admin.ModelAdmin[Application]):
    """Applications with their owners."""

    list_display = ["name", "owner", "description", "created_at"]
    list_select_related = ["owner"]
    search_fields = ["name", "description", "owner__username"]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """The person who adds it answers for it, unless they say otherwise."""
        return {"owner": request.user.pk}

    def get_readonly_fields(self, request: HttpRequest, obj: Application | None = None) -> list[str]:  # noqa: ARG002
        """The name stands in ZooKeeper and in SDKs' configuration."""
        return ["name"] if obj else []


class TokenForm(forms.ModelForm[ApiToken]):
    """A new token; its secret is made by us."""

    class Meta:
        model = ApiToken
        fields = ["user", "name", "expires_at"]


@admin.register(ApiToken)
class ApiTokenAdmin(PlainChoices, admin.ModelAdmin[ApiToken]):
    """Tokens: made and revoked here; the secret is shown once."""

    form = TokenForm
    list_display = ["name", "user", "hint", "created_at", "expires_at", "last_used_at"]
    list_select_related = ["user"]
    search_fields = ["name", "user__username"]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Ninety days, for oneself."""
        return {"user": request.user.pk, "expires_at": timezone.now() + timedelta(days=90)}

    def get_form(self, request: HttpRequest, obj: ApiToken | None = None, change: bool = False, **kwargs: Any) -> Any:
        """A token acts as its person: nobody but an administrator makes one for somebody else."""
        form = super().get_form(request, obj, change, **kwargs)
        if "user" in form.base_fields and not request.user.is_superuser:
            form.base_fields["user"] = forms.ModelChoiceField(User.objects.filter(pk=request.user.pk or 0), label=_("user"))
        return form

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiToken]:
        """One's own tokens; an administrator sees and revokes those of all."""
        found = super().get_queryset(request)
        return found if request.user.is_superuser else found.filter(user_id=request.user.pk or 0)

    def has_change_permission(self, request: HttpRequest, obj: ApiToken | None = None) -> bool:  # noqa: ARG002
        """A token is made or revoked, never changed."""
        return False

    def save_model(self, request: HttpRequest, obj: ApiToken, form: Any, change: bool) -> None:  # noqa: ARG002
        """Issue it and show the secret, once."""
        token, secret = ApiToken.issue(user=obj.user, name=obj.name, expires_at=obj.expires_at)
        obj.pk, obj.digest, obj.hint, obj.created_at = token.pk, token.digest, token.hint, token.created_at
        flash.warning(request, _("This is the token; it is not shown again: {secret}").format(secret=secret))
