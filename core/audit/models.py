"""The audit entry; triggers refuse UPDATE, DELETE and TRUNCATE in the database itself."""

from typing import Any, Self

from django.conf import settings
from django.db import connection, models
from django.db.models import Q, Value
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from core.audit.search import TEXT
from core.scope import Principal, ScopedQuerySet, own_names

# A loose index scan, which Postgres has no plan of its own for: each step finds the next value by the index on (column, id).
_JUMP = """WITH RECURSIVE step AS (
  (SELECT {column} AS value FROM audit_auditentry ORDER BY {column} LIMIT 1)
  UNION ALL
  SELECT (SELECT {column} FROM audit_auditentry WHERE {column} > step.value ORDER BY {column} LIMIT 1) FROM step WHERE value IS NOT NULL
) SELECT value FROM step WHERE value IS NOT NULL LIMIT %s"""
JUMPS = {column: _JUMP.format(column=column) for column in ("kind", "action", "actor_name")}


class SearchText(models.Func):
    """What a search looks in."""

    template = TEXT
    output_field = models.TextField()


class Contains(models.Func):
    """Whether a text contains another, without regard to case; what % and _ stand for is themselves."""

    template = r"(%(expressions)s"
    arg_joiner = ") ILIKE "
    output_field = models.BooleanField()
    conditional = True

    def __init__(self, text: models.Func, word: Value) -> None:
        escaped = str(word.value).replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        super().__init__(text, Value(f"%{escaped}%"))


class AuditQuerySet(ScopedQuerySet["AuditEntry"]):
    """Entries of the audit."""

    def containing(self, words: str) -> Self:
        """Entries with every one of these words (eight at most) in name, person, reason or what changed."""
        found = self
        for word in words.split()[:8]:
            found = found.filter(Contains(SearchText(), Value(word)))
        return found

    def values_of(self, column: str, limit: int = 100) -> list[str]:
        """The values that a column has, in order, by a jump from each to the next in its index: DISTINCT would read the whole table."""
        if column not in JUMPS:
            raise ValueError(column)
        with connection.cursor() as cursor:
            cursor.execute(JUMPS[column], [limit])
            return [row[0] for row in cursor.fetchall()]

    def own(self, user: Principal) -> Q:
        """What was done to the person's things. Their names are read first: a list of them is found by the index, a subquery is not."""
        found = Q(pk__in=[])
        for kind, names in own_names.items():
            if listed := list(names(user)[:1000]):
                found |= Q(kind=kind, name__in=listed)
        return found


class AuditEntry(models.Model):
    """One write: who did what to what, before and after, and why."""

    at = models.DateTimeField(_("at"), db_default=Now(), editable=False)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.DO_NOTHING, null=True, db_constraint=False, related_name="+", verbose_name=_("person")
    )
    actor_name = models.CharField(_("who"), max_length=150, help_text=_("“system” is a worker of mqadmin."))
    credential = models.CharField(
        _("credential"), max_length=150, blank=True, help_text=_("session, token:… or key:…; task:… is a worker's own work.")
    )
    application = models.CharField(_("application"), max_length=120, blank=True, db_default="", help_text=_("Whose key it was."))
    action = models.CharField(_("action"), max_length=60)
    kind = models.CharField(_("kind"), max_length=60)
    name = models.CharField(_("name"), max_length=250)
    before: Any = models.JSONField(_("before"), null=True)
    after: Any = models.JSONField(_("after"), null=True)
    reason = models.TextField(_("reason"), blank=True)
    request_id = models.CharField(_("request id"), max_length=64, blank=True)
    address = models.CharField(_("address"), max_length=64, blank=True)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name = _("audit entry")
        verbose_name_plural = _("audit entries")
        # Each filter of the list has its index in the list's order, newest first; the search has audit_search (migration 0003).
        indexes = [
            models.Index(fields=["name", "kind", "-id"], name="audit_thing"),  # the history of one thing, or of all of a name
            models.Index(fields=["kind", "-id"], name="audit_kind"),
            models.Index(fields=["actor_name", "-id"], name="audit_person"),
            models.Index(fields=["action", "-id"], name="audit_action"),
            models.Index(fields=["at"], name="audit_time"),
            models.Index(fields=["request_id", "-id"], name="audit_request", condition=~Q(request_id="")),  # all that one request did
            models.Index(fields=["address", "-id"], name="audit_address", condition=~Q(address="")),
            models.Index(fields=["credential", "-id"], name="audit_credential", condition=~Q(credential="")),
            models.Index(fields=["application", "-id"], name="audit_application", condition=~Q(application="")),
        ]
        default_permissions = ("view",)
