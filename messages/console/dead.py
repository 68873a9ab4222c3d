"""Dead letters of a group, the same failures together; redriven one by one, selected, or all that match; the job's page."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from django.contrib import messages as flash
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from consumers.models import ConsumerGroup
from core.approvals.models import State
from core.console.actions import NOT_ALLOWED
from core.console.pages import Page, get, person
from core.errors import Problem
from messages import operating, reading, scope, services
from messages.models import Redrive, RedriveItem
from messages.names import group_names
from messages.types import DeadFilter

ROWS = 100
GROUPS = 200  # those with most; the page says how many more there are
MAX_REASON = 500


@dataclass(frozen=True, slots=True)
class Asked:
    """The filter of the address."""

    topic: str
    words: str
    key: str

    @classmethod
    def of(cls, given: Any) -> "Asked":
        """From GET or POST; what the database cannot hold is left out."""
        return cls(*(given.get(name, "").replace("\x00", "").strip()[:300] for name in ("topic", "reason", "key")))

    def only(self, user: Any, until: datetime | None = None) -> DeadFilter | None:
        """As the store takes it; None when the topic does not exist."""
        topic_id = scope.topic_id(user, self.topic)
        if self.topic and topic_id is None:
            return None
        return DeadFilter(topic_id=topic_id, key=self.key or None, reason_contains=self.words or None, failed_to=until)


class DeadLetters(Page):
    """Without a group: the groups that have some. With one: causes, the list, and the form that redrives."""

    permission = "mq_messages.view_message"
    here = "dead"
    title = gettext_lazy("Dead letters")
    template_name = "messages/dead.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        """The page that the address describes."""
        name = request.GET.get("group", "")
        return self._of_group(request, get(scope.groups(request.user), name=name)) if name else self._all()

    def _all(self) -> HttpResponse:
        seen = scope.groups(self.request.user).filter(state=State.ACTIVE)
        ids = list(seen.values_list("pk", flat=True))
        worst = services.most_dead(group_ids=ids, limit=GROUPS)
        totals, counts = services.totals(group_ids=ids), services.counts(group_ids=list(worst))
        groups = seen.select_related("owner").in_bulk(worst)
        rows = [{"group": groups[pk], "counts": counts[pk]} for pk in worst if pk in groups]
        return self.show(
            {
                "groups": rows,
                "groups_count": totals["dead_groups"],
                "more": max(0, totals["dead_groups"] - len(rows)),
                "total": totals["dead"],
                "running": running(self.request.user),
            },
            template="messages/dead_groups.html",
        )

    def _of_group(self, request: HttpRequest, group: ConsumerGroup) -> HttpResponse:
        asked, now = Asked.of(request.GET), timezone.now()
        only = asked.only(request.user)
        cursor = request.GET.get("cursor") or None
        page = None
        if only is not None:
            try:
                page = services.dead_letters(group_id=group.pk, only=only, limit=ROWS, cursor=cursor)
            except Problem as problem:
                if problem.code != "invalid_cursor":
                    raise
                page = services.dead_letters(group_id=group.pk, only=only, limit=ROWS)
        narrowed = asked != Asked("", "", "")
        total = services.counts(group_ids=[group.pk])[group.pk].dead
        matching = 0 if only is None else reading.count_dead(group_id=group.pk, only=only) if narrowed else total
        why = "" if request.user.has_perm("mq_messages.add_redrive") else NOT_ALLOWED
        if not why and group.state != State.ACTIVE:
            why = _("The group is not active: nobody would get them.")
        return self.show(
            {
                "crumbs": [(_("Dead letters"), reverse("admin:messages_dead"))],
                "title": group.name,
                "group": group,
                "rows": page.items if page else [],
                "next": page.next if page else None,
                "first_page": cursor is None,
                "causes": reading.causes(group_id=group.pk),
                "total": total,
                "matching": matching,
                "matching_more": narrowed and matching >= reading.COUNTED,
                "asked": asked,
                "narrowed": narrowed,
                "frozen": now,
                "why_not": why,
                "running": running(request.user, group.pk),
            }
        )

    def post(self, request: HttpRequest) -> HttpResponse:
        """Redrive one, the selected ones, or all that matched when the page was drawn."""
        if not request.user.has_perm("mq_messages.add_redrive"):
            from django.core.exceptions import PermissionDenied

            raise PermissionDenied
        group = get(scope.groups(request.user, "mq_messages.add_redrive"), name=request.POST.get("group", ""))
        asked = Asked.of(request.POST)
        reason = request.POST.get("why", "").replace("\x00", "").strip()[:MAX_REASON]
        one = request.POST.get("one", "")
        picked = [one] if one else request.POST.getlist("ids")
        try:
            if one or request.POST.get("scope") != "all":
                ids = [int(i) for i in picked if i.isascii() and i.isdigit() and len(i) <= 18]
                if not ids:
                    raise Problem("nothing_selected", _("No message is selected."), hint=_("Tick some, or choose all that match."))  # noqa: TRY301
                job = operating.redrive(actor=person(request), group=group, ids=ids, reason=reason)
            else:
                only = asked.only(request.user, _frozen(request.POST.get("frozen", "")))
                if only is None:
                    raise Problem("not_found", _("There is no topic “{name}”.").format(name=asked.topic), status=404)  # noqa: TRY301
                job = operating.redrive(actor=person(request), group=group, only=only, reason=reason)
        except Problem as problem:
            flash.error(request, str(problem))
            back = {"group": group.name, **{k: v for k, v in zip(("topic", "reason", "key"), asdict(asked).values(), strict=True) if v}}
            return HttpResponseRedirect(f"{reverse('admin:messages_dead')}?{urlencode(back)}")
        return HttpResponseRedirect(reverse("admin:messages_redrive", args=[job.pk]))


def _frozen(value: str) -> datetime:
    """When the page was drawn: what died later was not seen by the person who decides."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        moment = datetime.now(UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def running(user: Any, group_id: int | None = None) -> int:
    """How many redrives are not finished."""
    jobs = scope.redrives(user).filter(state=Redrive.State.RUNNING)
    return (jobs if group_id is None else jobs.filter(group_id=group_id)).count()


class Redrives(Page):
    """All redrives, newest first."""

    permission = "mq_messages.view_redrive"
    here = "dead"
    title = gettext_lazy("Redrives")
    template_name = "messages/redrives.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        """Those before `?before=`; of one group with `?group=`."""
        jobs = scope.redrives(request.user).order_by("-pk")
        name = request.GET.get("group", "")
        if name:
            jobs = jobs.filter(group_id=get(scope.groups(request.user, self.permission), name=name).pk)
        before = request.GET.get("before", "")
        if before.isascii() and before.isdigit() and len(before) <= 18:
            jobs = jobs.filter(pk__lt=int(before))
        found = list(jobs[: ROWS + 1])
        names = group_names({job.group_id for job in found})
        return self.show(
            {
                "crumbs": [(_("Dead letters"), reverse("admin:messages_dead"))],
                "rows": [{"job": job, "group": names[job.group_id]} for job in found[:ROWS]],
                "group": name,
                "next": found[ROWS - 1].pk if len(found) > ROWS else None,
                "first_page": not before,
            }
        )


class Job(Page):
    """One redrive: how far it is, and what became of each message."""

    permission = "mq_messages.view_redrive"
    here = "dead"
    template_name = "messages/redrive.html"

    def get(self, request: HttpRequest, redrive: int) -> HttpResponse:
        """Refused ones first to be seen: they have a tab of their own."""
        job = get(scope.redrives(request.user), pk=redrive) if redrive < 2**63 else None
        if job is None:
            raise Http404
        state = request.GET.get("state", "")
        state = state if state in RedriveItem.State.values else ""
        items = job.items.order_by("message_id")
        if state:
            items = items.filter(state=state)
        after = request.GET.get("after", "")
        if after.isascii() and after.isdigit() and len(after) <= 18:
            items = items.filter(message_id__gt=int(after))
        found = list(items[: ROWS + 1])
        name = group_names([job.group_id])[job.group_id]
        pending = job.total - job.redriven - job.refused
        done = job.redriven + job.refused
        dead_url = f"{reverse('admin:messages_dead')}?{urlencode({'group': name})}"
        return self.show(
            {
                "title": _("Redrive {id}").format(id=job.pk),
                "crumbs": [
                    (_("Dead letters"), reverse("admin:messages_dead")),
                    (name, dead_url),
                    (_("Redrives"), reverse("admin:messages_redrives")),
                ],
                "job": job,
                "group": name,
                "done": done,
                "pending": pending,
                "percent": round(100 * done / job.total, 1) if job.total else 100.0,
                "good": round(100 * job.redriven / job.total, 2) if job.total else 0,
                "bad": round(100 * job.refused / job.total, 2) if job.total else 0,
                "rows": found[:ROWS],
                "next": found[ROWS - 1].message_id if len(found) > ROWS else None,
                "first_page": not after,
                "tabs": [
                    {"key": "", "label": _("All"), "count": job.total, "on": not state},
                    {"key": "redriven", "label": _("Redriven"), "count": job.redriven, "on": state == "redriven"},
                    {"key": "refused", "label": _("Refused"), "count": job.refused, "on": state == "refused", "tone": "hot"},
                    {"key": "pending", "label": _("Pending"), "count": pending, "on": state == "pending"},
                ],
                "summary": ngettext("{n} message", "{n} messages", job.total).format(n=f"{job.total:,}"),
            }
        )
