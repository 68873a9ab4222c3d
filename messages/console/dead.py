"""Dead letters of a group, the same failures together; redriven one by one, selected, or all that match."""

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from django.contrib import messages as flash
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from consumers.models import ConsumerGroup
from core.approvals.models import State
from core.console.actions import NOT_ALLOWED
from core.console.pages import Page, get, person
from core.errors import Problem, not_found
from core.operations.models import Operation
from messages import broadcast, exporting, operating, purges, reading, redrives, scope, services
from messages.api.group_plane import dead_letter_file
from messages.types import DeadFilter

ROWS = 100
GROUPS = 200  # those with most; the page says how many more there are
MAX_REASON = 500
CAUSES = 8  # shown above the list
CAUSES_OF = 10_000  # newest dead letters that they are told of: the page is drawn again and again
FIELDS = ("topic", "reason", "key", "cause")  # of Asked, as they are named in addresses
SEND = "mq_messages.send_message"


@dataclass(frozen=True, slots=True)
class Asked:
    """The filter of the address."""

    topic: str
    words: str
    key: str
    cause: str

    @classmethod
    def of(cls, given: Any) -> "Asked":
        """From GET or POST; what the database cannot hold is left out."""
        return cls(*(given.get(name, "").replace("\x00", "").strip()[:300] for name in FIELDS))

    def address(self) -> dict[str, str]:
        """As it stands in an address."""
        return {name: value for name, value in zip(FIELDS, asdict(self).values(), strict=True) if value}

    def only(self, user: Any, until: datetime | None = None) -> DeadFilter | None:
        """As the store takes it; None when the topic does not exist."""
        topic_id = scope.topic_id(user, self.topic)
        if self.topic and topic_id is None:
            return None
        return DeadFilter(
            topic_id=topic_id, key=self.key or None, reason_contains=self.words or None, cause=self.cause or None, failed_to=until
        )


class DeadLetters(Page):
    """Without a group: the groups that have some. With one: causes, the list, and the form that redrives."""

    permission = "mq_messages.view_message"
    here = "dead"
    title = gettext_lazy("Dead letters")
    template_name = "messages/dead.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        """The page that the address describes."""
        name = request.GET.get("group", "")
        if not name:
            return self._all()
        group = get(scope.groups(request.user), name=name)
        if broadcast.is_broadcast(group) and not request.GET.get("instance"):
            return self._of_instances(group)
        return self._of_group(request, group)

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

    def _of_instances(self, group: ConsumerGroup) -> HttpResponse:
        """Of a broadcast group: its instances that have some, most first."""
        rows = [one for one in services.furthest_behind(group_id=group.pk, limit=broadcast.MAX_INSTANCES) if one.counts.dead]
        rows.sort(key=lambda one: (-one.counts.dead, one.name))
        context = {
            "crumbs": [(_("Dead letters"), reverse("admin:messages_dead"))],
            "title": group.name,
            "group": group,
            "rows": rows,
            "total": sum(one.counts.dead for one in rows),
        }
        return self.show(context, template="messages/dead_instances.html")

    def _of_group(self, request: HttpRequest, group: ConsumerGroup) -> HttpResponse:
        instance = request.GET.get("instance", "") or None
        store_id = broadcast.find(group=group, name=instance)
        asked, now = Asked.of(request.GET), timezone.now()
        only = asked.only(request.user)
        cursor = request.GET.get("cursor") or None
        page = None
        if only is not None:
            try:
                page = services.dead_letters(group_id=store_id, only=only, limit=ROWS, cursor=cursor)
            except Problem as problem:
                if problem.code != "invalid_cursor":
                    raise
                page = services.dead_letters(group_id=store_id, only=only, limit=ROWS)
        narrowed = bool(asked.address())
        causes = services.dead_causes(group_id=store_id, most=CAUSES_OF)
        total = services.counts(group_ids=[store_id])[store_id].dead
        matching = 0 if only is None else reading.count_dead(group_id=store_id, only=only) if narrowed else total
        whose = {"group": group.name, **({"instance": instance} if instance else {})}
        why = "" if request.user.has_perm("mq_messages.add_redrive") else NOT_ALLOWED
        if not why and group.state != State.ACTIVE:
            why = _("The group is not active: nobody would get them.")
        return self.show(
            {
                "crumbs": [(_("Dead letters"), reverse("admin:messages_dead"))],
                "title": group.name,
                "group": group,
                "instance": instance or "",
                "own_url": f"?{urlencode(whose)}",
                "rows": page.items if page else [],
                "next": page.next if page else None,
                "first_page": cursor is None,
                "causes": causes,
                "shown_causes": causes.items[:CAUSES],
                "export_url": f"{reverse('admin:messages_dead_export')}?{urlencode({**whose, **asked.address()})}",
                "why_not_purge": "" if request.user.has_perm("mq_messages.purge_dead") else NOT_ALLOWED,
                "total": total,
                "matching": matching,
                "matching_more": narrowed and matching >= reading.COUNTED,
                "asked": asked,
                "narrowed": narrowed,
                "frozen": now,
                "why_not": why,
                "running": running(request.user, store_id),
                "topics": list(scope.topics(request.user, SEND).order_by("name").values_list("name", flat=True)[:500]),
            }
        )

    def post(self, request: HttpRequest) -> HttpResponse:
        """Redrive, or purge, one, the selected ones, or all that matched when the page was drawn."""
        purging = request.POST.get("do") == "purge"
        permission = "mq_messages.purge_dead" if purging else "mq_messages.add_redrive"
        if not request.user.has_perm(permission):
            raise PermissionDenied
        group = get(scope.groups(request.user, permission), name=request.POST.get("group", ""))
        reason = request.POST.get("why", "").replace("\x00", "").strip()[:MAX_REASON]
        instance = request.POST.get("instance", "") or None
        try:
            ids, only = chosen(request)
            if purging:
                confirm = request.POST.get("confirm", "").strip()
                job = operating.purge(
                    actor=person(request), group=group, ids=ids, only=only, reason=reason, confirm=confirm, instance=instance
                )
            else:
                plan = services.Plan() if request.POST.get("one") else self._plan(request)
                job = operating.redrive(actor=person(request), group=group, ids=ids, only=only, plan=plan, reason=reason, instance=instance)
        except Problem as problem:
            flash.error(request, f"{problem} {problem.hint}".strip())
            back = {"group": group.name, **({"instance": instance} if instance else {}), **Asked.of(request.POST).address()}
            return HttpResponseRedirect(f"{reverse('admin:messages_dead')}?{urlencode(back)}")
        return HttpResponseRedirect(reverse("admin:operations_detail", args=[job.uid]))

    def _plan(self, request: HttpRequest) -> services.Plan:
        """Where to and how carefully. Problems: not_found (the topic), invalid_redrive."""
        given = request.POST.get("to", "group")
        topic_id = None
        if given == "other":
            name = request.POST.get("other", "").replace("\x00", "").strip()[:140]
            topic_id = scope.topic_id(request.user, name)
            if topic_id is None:
                raise not_found(_("topic"), name)
        share = _number(request, "stop_at")
        return services.Plan(
            to="group" if given == "group" else "topic",
            topic_id=topic_id,
            rate=_number(request, "rate"),
            canary=int(_number(request, "canary") or 0),
            stop_at=None if share is None else share / 100,
        )


class Export(Page):
    """Dead letters as a file."""

    permission = "mq_messages.view_message"
    here = "dead"

    def get(self, request: HttpRequest) -> HttpResponseBase:
        """What the list's filter finds, as CSV."""
        group = get(scope.groups(request.user, self.permission), name=request.GET.get("group", ""))
        asked = Asked.of(request.GET)
        only = asked.only(request.user)
        if only is None:
            raise not_found(_("topic"), asked.topic)
        form: exporting.Form = "jsonl" if request.GET.get("as") == "jsonl" else "csv"
        return dead_letter_file(person(request), group, only, form, request.GET.get("instance", "") or None)


def chosen(request: HttpRequest) -> tuple[list[int] | None, DeadFilter | None]:
    """The ticked messages, one of them, or all that matched when the page was drawn. Problems: nothing_selected, not_found."""
    one = request.POST.get("one", "")
    if one or request.POST.get("scope") != "all":
        picked = [one] if one else request.POST.getlist("ids")
        ids = [int(i) for i in picked if i.isascii() and i.isdigit() and len(i) <= 18]
        if not ids:
            raise Problem("nothing_selected", _("No message is selected."), hint=_("Tick some, or choose all that match."))
        return ids, None
    asked = Asked.of(request.POST)
    only = asked.only(request.user, _frozen(request.POST.get("frozen", "")))
    if only is None:
        raise Problem("not_found", _("There is no topic “{name}”.").format(name=asked.topic), status=404)
    return None, only


def _number(request: HttpRequest, name: str) -> float | None:
    """A number of the form; nothing written is None. Problem: invalid_redrive."""
    given = request.POST.get(name, "").strip()
    try:
        value = float(given) if given else None
    except ValueError:
        value = math.nan
    if value is not None and not math.isfinite(value):
        raise Problem("invalid_redrive", _("“{value}” is not a number.").format(value=given[:40]))
    return value


def _frozen(value: str) -> datetime:
    """When the page was drawn: what died later was not seen by the person who decides."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        moment = datetime.now(UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def running(user: Any, group_id: int | None = None) -> int:
    """How many operations on dead letters are not finished."""
    jobs = Operation.objects.restrict(user).unfinished().filter(kind__in=[redrives.KIND, purges.KIND])
    return (jobs if group_id is None else jobs.filter(params__group_id=group_id)).count()
