"""People, the applications that they own, and the tokens that machines use in their name."""

import hashlib
import secrets
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import AbstractUser, Group, Permission
from django.contrib.postgres.fields import ArrayField
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import models
from django.db.models import Q, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import roles
from core.encryption import EncryptedTextField
from core.scope import Principal, Reach, ScopedQuerySet


class User(AbstractUser):
    """A person; what they may is what their roles, groups and they themselves are granted, cut down to what their token is for."""

    #: The token that the request came with; None: a session.
    token: "ApiToken | None" = None

    class Meta:
        verbose_name = _("person")
        verbose_name_plural = _("people")
        permissions = [("administer_user", _("Can administer people, roles, and tokens, sessions and lockouts of others"))]

    @cached_property
    def _grants(self) -> dict[str, Reach]:
        """Permissions of the person and their reach, in one statement; the role `administrator` is the permission `*`."""
        of_groups = User.groups.through.objects.filter(user=self.pk).values_list(
            "group__builtin__key", "group__permissions__content_type__app_label", "group__permissions__codename"
        )
        direct = User.user_permissions.through.objects.filter(user=self.pk).values_list(
            Value(None, output_field=models.CharField()), "permission__content_type__app_label", "permission__codename"
        )
        grants: dict[str, Reach] = {}
        for key, app, codename in of_groups.union(direct, all=True):
            if key == roles.ADMINISTRATOR:
                return {"*": Reach.ALL}
            name = f"{app}.{codename}"
            reach = roles.ROLES[key].reach(name) if key in roles.ROLES else Reach.ALL
            if reach is Reach.ALL or (reach is Reach.OWN and name not in grants):
                grants[name] = reach
        return grants

    def reach(self, permission: str) -> Reach:
        """How far a permission reaches; nothing passes by the token that the request came with."""
        if not self.is_active or (self.token is not None and roles.scope_of(permission) not in self.token.scopes):
            return Reach.NONE
        if self.is_superuser or "*" in self._grants:
            return Reach.ALL
        return self._grants.get(permission, Reach.NONE)

    def has_perm(self, perm: str, obj: Any = None) -> bool:  # noqa: ARG002 - Django's signature
        """Whether the permission reaches anything."""
        return self.reach(perm) is not Reach.NONE

    def has_module_perms(self, app_label: str) -> bool:
        """Whether there is any permission of an app."""
        return any(name.startswith(f"{app_label}.") for name in self.get_all_permissions())

    def get_all_permissions(self, obj: Any = None) -> set[str]:  # noqa: ARG002 - Django's signature
        """All that reach anything, here and now."""
        if self.is_superuser or "*" in self._grants:
            named = Permission.objects.order_by().values_list("content_type__app_label", "codename")
            return {name for app, codename in named if self.has_perm(name := f"{app}.{codename}")}
        return {name for name in self._grants if self.has_perm(name)}

    def own_applications(self) -> RawSQL:
        """Ids of the applications that the person owns or is a member of, as a subquery.

        SQL, since a page asks for it a dozen times and building it from querysets took a third of the page; a union, not OR: it lets
        Postgres see that they are few, and find what is theirs by an index.
        """
        return RawSQL(
            "SELECT id FROM accounts_application WHERE owner_id = %s"
            " UNION ALL SELECT application_id FROM accounts_application_members WHERE user_id = %s",
            (self.pk, self.pk),
        )

    def owns(self, application_id: int) -> bool:
        """Whether this application is one of them, now."""
        return Application.objects.filter(pk=application_id, pk__in=self.own_applications()).exists()

    @cached_property
    def _own_application_ids(self) -> frozenset[int]:
        return frozenset(Application.objects.filter(pk__in=self.own_applications()).values_list("pk", flat=True))

    def own_application_ids(self) -> frozenset[int]:
        """The same as a set; read once."""
        return self._own_application_ids


class BuiltinRole(models.Model):
    """The group that stands for a role of `roles.ROLES`; its permissions are kept in step with the table there."""

    key = models.CharField(max_length=20, primary_key=True)
    group = models.OneToOneField(Group, models.CASCADE, related_name="builtin")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.key


class ApplicationQuerySet(ScopedQuerySet["Application"]):
    """Applications."""

    def own(self, user: Principal) -> Q:
        """Those that the person owns or is a member of."""
        return Q(pk__in=user.own_applications())


class Application(models.Model):
    """A program of the company that produces or consumes messages; the word that its SDK reports."""

    name = models.CharField(
        _("name"), max_length=120, unique=True, help_text=_("As the SDK of the application reports it, for example order-service.")
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        related_name="applications",
        verbose_name=_("owner"),
        help_text=_("Answers for the application."),
    )
    members = models.ManyToManyField(
        settings.AUTH_USER_MODEL,
        blank=True,
        related_name="member_of",
        verbose_name=_("members"),
        help_text=_("See and work with everything of the application, as its owner does."),
    )
    description = models.CharField(_("description"), max_length=500, blank=True)
    version = models.PositiveIntegerField(default=1, editable=False)  # of the row; every change adds one
    created_at = models.DateTimeField(_("created"), db_default=Now(), editable=False)
    changed_at = models.DateTimeField(_("changed"), db_default=Now(), editable=False)

    objects = ApplicationQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        verbose_name = _("application")
        verbose_name_plural = _("applications")

    def __str__(self) -> str:
        return self.name


def all_scopes() -> list[str]:
    """A token for everything that its person may."""
    return list(roles.SCOPES)


class ApiTokenQuerySet(ScopedQuerySet["ApiToken"]):
    """Tokens."""

    def own(self, user: Principal) -> Q:
        """One's own."""
        return Q(user=getattr(user, "pk", None))


class ApiToken(models.Model):
    """A credential for `Authorization: Token …`: kept as a hash, shown once, ends by itself."""

    PREFIX: ClassVar[str] = "mq_"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_tokens", verbose_name=_("user"))
    name = models.CharField(_("name"), max_length=120, help_text=_("What uses it, for example “ci of order-service”."))
    scopes = ArrayField(models.CharField(max_length=10), verbose_name=_("scopes"), default=all_scopes)
    made_with = models.ForeignKey("self", models.CASCADE, null=True, editable=False, related_name="made")  # revoked together with it
    digest = models.CharField(max_length=64, unique=True, editable=False)
    hint = models.CharField(_("begins with"), max_length=12, editable=False)
    created_at = models.DateTimeField(_("created"), db_default=Now(), editable=False)
    expires_at = models.DateTimeField(_("expires"))
    last_used_at = models.DateTimeField(_("last used"), null=True, editable=False)

    objects = ApiTokenQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"

    @property
    def is_expired(self) -> bool:
        """Whether it has ended."""
        return self.expires_at <= timezone.now()

    @classmethod
    def digest_of(cls, secret: str) -> str:
        """SHA-256 in hex: the secret has 256 random bits, so a slow hash would add nothing."""
        return hashlib.sha256(secret.encode()).hexdigest()

    @classmethod
    def issue(cls, *, user: Any, name: str, expires_at: datetime, **values: Any) -> tuple["ApiToken", str]:
        """Make a token, of all scopes unless `scopes` are given; the secret is returned here and nowhere else."""
        secret = cls.PREFIX + secrets.token_urlsafe(32)
        token = cls.objects.create(user=user, name=name, digest=cls.digest_of(secret), hint=secret[:9], expires_at=expires_at, **values)
        return token, secret


class ApplicationKeyQuerySet(ScopedQuerySet["ApplicationKey"]):
    """Keys of applications."""

    def own(self, user: Principal) -> Q:
        """Those of the person's applications."""
        return Q(application__in=user.own_applications())


class ApplicationKey(models.Model):
    """What an application signs its requests with; the secret is sealed, since a signature cannot be checked with a hash of it."""

    PREFIX: ClassVar[str] = "mqk_"

    application = models.ForeignKey(Application, models.CASCADE, related_name="keys", verbose_name=_("application"))
    key_id = models.CharField(_("key id"), max_length=24, unique=True, editable=False)
    name = models.CharField(_("name"), max_length=120, blank=True, help_text=_("What uses it, for example “production”."))
    secret = EncryptedTextField(editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, editable=False, related_name="+", verbose_name=_("made by")
    )
    created_at = models.DateTimeField(_("created"), db_default=Now(), editable=False)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    last_used_at = models.DateTimeField(_("last used"), null=True, editable=False)
    revoked_at = models.DateTimeField(_("revoked"), null=True, editable=False)

    objects = ApplicationKeyQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        verbose_name = _("application key")
        verbose_name_plural = _("application keys")
        default_permissions = ("view", "add", "delete")

    def __str__(self) -> str:
        return self.key_id

    @property
    def is_valid(self) -> bool:
        """Whether it can be used now."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > timezone.now())


class KeyNonce(models.Model):
    """A nonce that a key has used; an unlogged table (see the migration): it is written for every signed write and kept for minutes."""

    pk = models.CompositePrimaryKey("key", "nonce")
    key = models.BigIntegerField()
    nonce = models.CharField(max_length=64)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ()
        indexes = [models.Index(fields=["at"], name="accounts_keynonce_age")]  # for throwing old ones away


class PersonSession(AbstractBaseSession):
    """A browser's session with whose it is, so that it can be listed and ended; the store is `accounts.sessions`."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True, related_name="sessions", verbose_name=_("user"))
    address = models.CharField(_("address"), max_length=64, blank=True)
    agent = models.CharField(_("browser"), max_length=300, blank=True)
    created_at = models.DateTimeField(_("signed in"), default=timezone.now)
    active_at = models.DateTimeField(_("last active"), default=timezone.now)

    class Meta(AbstractBaseSession.Meta):
        abstract = False
        default_permissions = ()
        indexes = [models.Index(fields=["user", "-active_at"], name="accounts_session_of")]

    @classmethod
    def get_session_store_class(cls) -> Any:
        """The store that writes these."""
        from accounts.sessions import SessionStore

        return SessionStore
