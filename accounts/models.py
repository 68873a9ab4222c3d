"""People, the applications that they own, and the tokens that machines use in their name."""

import hashlib
import secrets
from datetime import datetime
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _


class User(AbstractUser):
    """A person; our own class from the first migration on, so that it can grow."""

    class Meta:
        verbose_name = _("user")
        verbose_name_plural = _("users")


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
    description = models.CharField(_("description"), max_length=500, blank=True)
    version = models.PositiveIntegerField(default=1, editable=False)  # of the row; every change adds one
    created_at = models.DateTimeField(_("created"), db_default=Now(), editable=False)
    changed_at = models.DateTimeField(_("changed"), db_default=Now(), editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name = _("application")
        verbose_name_plural = _("applications")

    def __str__(self) -> str:
        return self.name


class ApiToken(models.Model):
    """A credential for `Authorization: Token …`: kept as a hash, shown once, ends by itself."""

    PREFIX: ClassVar[str] = "mq_"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_tokens", verbose_name=_("user"))
    name = models.CharField(_("name"), max_length=120, help_text=_("What uses it, for example “ci of order-service”."))
    digest = models.CharField(max_length=64, unique=True, editable=False)
    hint = models.CharField(_("begins with"), max_length=12, editable=False)
    created_at = models.DateTimeField(_("created"), db_default=Now(), editable=False)
    expires_at = models.DateTimeField(_("expires"))
    last_used_at = models.DateTimeField(_("last used"), null=True, editable=False)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"

    @classmethod
    def digest_of(cls, secret: str) -> str:
        """SHA-256 in hex: the secret has 256 random bits, so a slow hash would add nothing."""
        return hashlib.sha256(secret.encode()).hexdigest()

    @classmethod
    def issue(cls, *, user: Any, name: str, expires_at: datetime) -> tuple["ApiToken", str]:
        """Make a token; the secret is returned here and nowhere else."""
        secret = cls.PREFIX + secrets.token_urlsafe(32)
        token = cls.objects.create(user=user, name=name, digest=cls.digest_of(secret), hint=secret[:9], expires_at=expires_at)
        return token, secret
