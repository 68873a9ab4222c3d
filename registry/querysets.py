"""Set-based reads of publications, instances and registrars."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Self

from django.db import models, transaction
from django.db.models import Case, Count, DurationField, Exists, ExpressionWrapper, F, IntegerField, Min, OuterRef, Q, Subquery, Value, When
from django.db.models.functions import Coalesce, Greatest, Now
from django.utils import timezone

from core.scope import Principal, ScopedQuerySet, own_paths

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from registry.models import Drift, Gate, Instance, Publication, RegistrarHeartbeat, Release  # noqa: F401 - for the quoted names below

DIRTY = Q(published_generation__lt=F("generation")) | Q(drifted_at__isnull=False)


def _own(user: Principal) -> Q:
    """What stands at, or follows, the nodes of the person's topics, groups and shadow groups; the rooms above know them."""
    first, *others = [paths(user) for paths in own_paths]
    return Q(path__in=first.union(*others, all=True))


class PublicationQuerySet(ScopedQuerySet["Publication"]):
    """Publications."""

    def own(self, user: Principal) -> Q:
        """The nodes of the person's topics, groups and shadow groups."""
        return _own(user)

    def dirty(self) -> Self:
        """Those whose node does not hold the last generation."""
        return self.filter(DIRTY)

    def failing(self) -> Self:
        """Those that were tried and could not be written."""
        return self.dirty().exclude(last_error="")

    def held(self) -> Self:
        """Those at which somebody else's edit waits for a person."""
        return self.filter(held_at=F("drifted_at"))

    def standing(self) -> Self:
        """Those whose node is there, in its last generation; also one that others have changed and that waits for a person."""
        seen = Q(drifted_at=None) | (Q(held_at=F("drifted_at")) & ~Q(last_foreign_edit="deleted"))
        return self.live().filter(seen, published_generation=F("generation"))

    def live(self) -> Self:
        """Those that are not retired."""
        return self.filter(deleted=False)

    def due_now(self) -> Self:
        """What a registrar has to see to; not what waits for a person."""
        return self.dirty().exclude(held_at__isnull=False, held_at=F("drifted_at"))

    def due(self) -> Self:
        """Return the registrar's work, oldest first; whether the order across paths allows it yet is `with_blockers`."""
        return self.due_now().filter(next_attempt_at__lte=timezone.now()).order_by("changed_at", "pk")

    def depending_on(self, path: str) -> Self:
        """Those that must never be visible without this path."""
        return self.filter(requires__contains=[path])

    def with_applied_counts(self) -> Self:
        """Annotate online_count, applied_count, outdated_count and unknown_count: how many online instances run what is published."""
        from registry.models import Instance

        online = Instance.objects.filter(path=OuterRef("path"), online=True).order_by().values("path")

        def count(only: Q) -> Coalesce:
            counted = online.annotate(n=Count("pk", filter=only)).values("n")
            return Coalesce(Subquery(counted, output_field=IntegerField()), Value(0))

        generation = OuterRef("published_generation")
        unknown = Q(plain=True) | Q(applied_generation__isnull=True)
        return self.annotate(
            online_count=count(Q()),
            unknown_count=count(unknown),
            applied_count=count(Q(plain=False, applied_generation__gte=generation)),
            outdated_count=count(Q(plain=False, applied_generation__lt=generation)),
        )


class ReleaseQuerySet(ScopedQuerySet["Release"]):
    """Releases."""

    def own(self, user: Principal) -> Q:
        """Those of the nodes of the person's topics, groups and shadow groups."""
        from registry.models import Publication

        return Q(publication__in=Publication.objects.filter(_own(user)).values("pk"))

    def of(self, path: str) -> Self:
        """Those of one path, newest first."""
        return self.filter(publication__path=path).order_by("-generation")

    def listed(self) -> Self:
        """With what a row of a list shows of its publication, and without the bytes."""
        return self.select_related("publication").only(
            "generation", "kind", "author_name", "message", "change", "format", "deleted", "created_at", "published_at",
            "publication__path", "publication__generation", "publication__published_generation",
        )  # fmt: skip


class GateQuerySet(ScopedQuerySet["Gate"]):
    """Gated releases."""

    def own(self, user: Principal) -> Q:
        """Those of the nodes of the person's topics and groups."""
        from registry.models import Publication

        return Q(publication__in=Publication.objects.filter(_own(user)).values("pk"))

    def standing(self) -> Self:
        """Those that are open, or whose clients are not proven to be back: nothing else may happen to the node's cluster meanwhile."""
        return self.filter(closed_at=None)

    def open(self) -> Self:
        """Those that stand in a node."""
        return self.filter(state="open")

    def at(self, path: str) -> Self:
        """Those of one path."""
        return self.filter(publication__path=path)


def _applied(generation: F | Value) -> Case:
    """Whether an instance runs this generation."""
    return Case(
        When(online=False, then=Value("offline")),
        When(Q(plain=True) | Q(applied_generation__isnull=True) | Q(published_generation__isnull=True), then=Value("unknown")),
        When(applied_generation__gte=generation, then=Value("applied")),
        default=Value("outdated"),
        output_field=models.CharField(),
    )


def _latency(published_at: F | Value, when: Q) -> Case:
    """From the publication until `reached_at`, both by the database's clock, of instances that were there before it."""
    took = ExpressionWrapper(F("reached_at") - published_at, output_field=DurationField())
    # It may be recorded a moment before the publication itself is.
    return Case(When(when & Q(first_seen__lt=published_at), then=Greatest(took, Value(timedelta(0), output_field=DurationField()))))


class InstanceQuerySet(ScopedQuerySet["Instance"]):
    """Instances."""

    def own(self, user: Principal) -> Q:
        """Whoever follows the person's topics, groups and shadow groups."""
        return _own(user)

    def online(self) -> Self:
        """Those whose ephemeral node stands, or whose heartbeats come."""
        return self.filter(online=True)

    def known_by(self, source: str) -> Self:
        """Those known from ZooKeeper, or by their heartbeats over REST."""
        return self.filter(beat_at__isnull=source != "rest")

    def at(self, paths: Sequence[str]) -> Self:
        """Those that follow one of the topics, groups or shadow groups at these paths."""
        return self.filter(path__in=list(paths))

    def gone(self, **values: object) -> list[str]:
        """Mark those that are online as gone, which their history keeps; returns the path that each followed."""
        from registry.models import Instance, InstanceEvent

        with transaction.atomic():
            rows = list(self.online().order_by("pk").select_for_update(of=("self",)).values_list("pk", "path", "applied_generation"))
            Instance.objects.filter(pk__in=[pk for pk, _path, _generation in rows]).update(online=False, offline_at=Now(), **values)
            detail, kind = str(values.get("state", "")), InstanceEvent.Kind.OFFLINE
            InstanceEvent.objects.bulk_create(
                [InstanceEvent(instance_id=pk, kind=kind, generation=generation, detail=detail) for pk, _path, generation in rows],
                batch_size=1000,
            )
        return [path for _pk, path, _generation in rows]

    def with_applied(self) -> Self:
        """Annotate how far each is with what is published where it stands.

        `published_generation`; `applied`: applied, outdated, unknown or offline; `reached_at`: when it was seen to run what it runs;
        `latency`: from the publication until then. None: it runs something older, or came only after the publication.
        """
        rows = self.annotate(published_generation=F("publication__published_generation"), reached_at=F("seen_at"))
        exactly = Q(applied_generation=F("publication__published_generation"))
        return rows.annotate(applied=_applied(F("published_generation")), latency=_latency(F("publication__published_at"), exactly))

    def with_applied_to(self, generation: int, published_at: datetime | None) -> Self:
        """The same for one change of the path at which they all stand, which is no longer or not yet the published one.

        `reached_at` is then when each was first seen with this generation or a later one, as far back as its history goes.
        """
        from registry.models import InstanceEvent

        events = InstanceEvent.objects.filter(instance=OuterRef("pk"), kind=InstanceEvent.Kind.APPLIED, generation__gte=generation)
        first = Subquery(events.order_by().values("instance").annotate(first=Min("at")).values("first"))
        runs = Case(When(applied_generation__gte=generation, then=F("seen_at")))
        rows = self.annotate(published_generation=F("publication__published_generation"), reached_at=Coalesce(first, runs))
        published = Value(published_at, output_field=models.DateTimeField())
        return rows.annotate(applied=_applied(Value(generation)), latency=_latency(published, Q(reached_at__isnull=False)))

    def outdated(self) -> Self:
        """Online ones that run an older generation than the published one: `applied` is outdated, told without a join of all rows."""
        from registry.models import Publication

        newer = Publication.objects.filter(path=OuterRef("path"), published_generation__gt=OuterRef("applied_generation"))
        return self.filter(Exists(newer), online=True, plain=False)

    def silent(self) -> Self:
        """Online ones of which nobody knows what they run: `applied` is unknown."""
        from registry.models import Publication

        known = Exists(Publication.objects.filter(path=OuterRef("path")))
        return self.filter(Q(plain=True) | Q(applied_generation__isnull=True) | ~known, online=True)


class DriftQuerySet(ScopedQuerySet["Drift"]):
    """Edits by others."""

    def own(self, user: Principal) -> Q:
        """Those of the person's topics, groups and shadow groups."""
        return _own(user)

    def unsettled(self) -> Self:
        """Those whose end is not known."""
        return self.filter(settled_at=None)

    def waiting(self) -> Self:
        """Those that a person must decide on."""
        return self.unsettled().filter(outcome="waiting")


class RegistrarQuerySet(models.QuerySet["RegistrarHeartbeat"]):
    """Registrars."""

    def alive(self, *, within: timedelta | None = None) -> Self:
        """Those with a heartbeat in the last seconds."""
        from registry.models import HEARTBEAT_LIMIT

        return self.filter(beat_at__gte=timezone.now() - (within or HEARTBEAT_LIMIT))

    def watching(self) -> Self:
        """Those alive that see every instance come and go."""
        return self.alive().filter(zookeeper="connected", watch="live")

    def discovering(self) -> Self:
        """Those alive that see everything in the service registries."""
        return self.alive().filter(zookeeper="connected", discovery="live")
