"""What is done about edits by others, tree by tree, and what a full check found in one."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from registry.roots import ROOTS


class DriftPolicy(models.Model):
    """What registrars do about edits by others below one root; a root without a row is repaired at once."""

    class Policy(models.TextChoices):
        """At once, or never without a person."""

        REPAIR = "repair", _("repair at once")
        ALERT = "alert", _("alert and wait for a person")

    name = models.CharField(_("tree"), max_length=32, unique=True)  # a key of registry.roots.ROOTS
    policy = models.CharField(_("policy"), max_length=8, choices=Policy.choices, default=Policy.REPAIR)
    version = models.PositiveIntegerField(default=1)
    changed_at = models.DateTimeField(_("changed"), default=timezone.now)

    class Meta:
        verbose_name = _("drift policy")
        verbose_name_plural = _("drift policies")
        ordering = ("name",)
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return self.name

    @property
    def root(self) -> str:
        """The node below which it holds."""
        return ROOTS[self.name][0]


class TreeCheck(models.Model):
    """What a registrar found in one tree when a full check asked for it; goes with the operation."""

    operation = models.ForeignKey("operations.Operation", models.CASCADE, related_name="+")
    tree = models.CharField(max_length=32)
    requested_at = models.DateTimeField(db_default=Now())
    claimed_at = models.DateTimeField(null=True)
    claimed_by = models.CharField(max_length=200, default="")
    done_at = models.DateTimeField(null=True)
    nodes = models.IntegerField(default=0)
    milliseconds = models.IntegerField(default=0)
    differing: models.JSONField = models.JSONField(default=dict)  # path: missing, changed, pending or left
    unknown: models.JSONField = models.JSONField(default=list)  # paths where ours would stand, and that are none of ours

    class Meta:
        default_permissions = ()
        indexes = [models.Index(fields=["id"], condition=Q(done_at=None), name="registry_treecheck_open")]  # asked by each registrar

    def __str__(self) -> str:
        return self.tree
