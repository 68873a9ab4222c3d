"""Views of lists that people save: an address under a name, for oneself or for everybody."""

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.translation import gettext_lazy as _


class SavedView(models.Model):
    """A filter, sort and choice of columns of one list, under a name."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", verbose_name=_("owner"))
    page = models.CharField(max_length=60)  # the name of the list's address, such as topics_list
    name = models.CharField(_("name"), max_length=60)
    query = models.CharField(max_length=2000, blank=True)  # in the order of ListPage.parameters
    shared = models.BooleanField(_("shared with everybody"), default=False)
    changed_at = models.DateTimeField(_("changed"), db_default=Now())

    class Meta:
        verbose_name = _("saved view")
        verbose_name_plural = _("saved views")
        default_permissions = ()
        permissions = [("share_savedview", _("Can share a view of a list with everybody"))]
        constraints = [models.UniqueConstraint(fields=["owner", "page", "name"], name="saved_view_name")]
        indexes = [
            models.Index(fields=["page"], condition=models.Q(shared=True), name="saved_view_shared")
        ]  # those of a list for everybody

    def __str__(self) -> str:
        return self.name

    @property
    def address(self) -> str:
        """The list as it was saved; `sv` says which tab is on."""
        return f"{reverse(f'admin:{self.page}')}?{self.query}{'&' if self.query else ''}sv={self.pk}"


class DefaultView(models.Model):
    """The view that a person's list opens with."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    page = models.CharField(max_length=60)
    view = models.ForeignKey(SavedView, models.CASCADE, related_name="+")

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["owner", "page"], name="default_view_per_list")]

    def __str__(self) -> str:
        return f"{self.page}: {self.view_id}"
