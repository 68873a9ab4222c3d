"""Rolling back: what stood in a release becomes what is wanted again, by the verbs and the checks of the room that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from django.db import transaction
from django.utils.translation import gettext as _

from core.api.permissions import require
from core.approvals.services import require_reason
from core.audit.reading import Difference
from core.audit.services import record
from core.errors import Problem, conflict
from registry import releases
from registry.models import Publication, Release
from registry.releases import Change

if TYPE_CHECKING:
    from accounts.models import User


class Restore(Protocol):
    """Sets a room's rows so that what it publishes at a path holds these values; raises Problems, and says what was done in the audit."""

    def __call__(self, *, actor: User, path: str, values: Mapping[str, str], change: Change, accept_warnings: bool) -> None:
        """In the caller's transaction."""


@dataclass(frozen=True, slots=True)
class Room:
    """Who restores what stands under a root, and the permission that it takes besides that of rolling back."""

    permission: str
    restore: Restore


#: What follows from where things were in between, and is not had again: clusters that still have to be drained.
_FOLLOWS = {"mqadmin.drainClusters"}
#: By root; the rooms above enter themselves when they are ready.
rooms: dict[str, Room] = {}
#: Functions of a path that name what stands in the way of a rollback there, if anything does.
obstacles: list[Callable[[str], Problem | None]] = []


def latest(publication: Publication) -> Release | None:
    """The release that holds now."""
    return Release.objects.filter(publication=publication, generation=publication.generation).first()


def preview(release: Release) -> list[Difference]:
    """What a rollback to this release would change, key by key: what is published now against what stood in it."""
    found = releases.differences(latest(release.publication), release) or []
    return [difference for difference in found if difference.field not in _FOLLOWS]


def why_not(release: Release) -> Problem | None:
    """What forbids a rollback to this release whoever asks, as far as can be told without trying."""
    publication = release.publication
    if release.generation == publication.generation:
        return conflict("already_latest", _("This is the latest release of its node."), hint=_("Choose an earlier one."))
    if release.deleted:
        detail = _("In this release the node was to go.")
        return conflict("release_without_node", detail, hint=_("Retire the topic or group, or delete the cluster, to have that."))
    if publication.deleted:
        detail = _("What stood here has been retired.")
        return conflict("node_retired", detail, hint=_("Apply for it, or add it, anew: retiring has no way back."))
    if releases.values_of(release).get("gatedCluster"):
        detail = _("This was a gated release.")
        return conflict("release_was_gated", detail, hint=_("Open a gate of its own, or choose the release before it."))
    if publication.root not in rooms:
        return conflict("nobody_restores", _("Nothing here can restore what stands at {path}.").format(path=publication.path))
    return next((found for obstacle in obstacles if (found := obstacle(publication.path)) is not None), None)


def rollback(*, actor: User, release: Release, base: int, reason: str, accept_warnings: bool = False) -> Release:
    """Want again what stood in this release; returns the release of it, of kind rollback.

    `base` is the generation that was the latest when the person looked at what would change. Problems: reason_required; stale_base, which
    names the latest one; already_latest, release_without_node, node_retired, nothing_to_roll_back; cannot_be_restored, which names the
    keys; confirmation_needed and all that the room's own verbs refuse.
    """
    require(actor, "registry.rollback_release")
    reason = require_reason(reason)
    with transaction.atomic():
        release = Release.objects.select_related("publication").get(pk=release.pk)
        publication = release.publication
        if publication.generation != base:
            raise _stale(publication, base)
        if (problem := why_not(release)) is not None:
            raise problem
        room = rooms[publication.root]
        require(actor, room.permission)
        change = Change(author=actor, message=reason, kind=Release.Kind.ROLLBACK)
        wanted = releases.values_of(release)
        room.restore(actor=actor, path=publication.path, values=wanted, change=change, accept_warnings=accept_warnings)
        made = list(publication.releases.filter(change=change.id).select_related("publication").order_by("generation"))
        if not made:
            raise conflict("nothing_to_roll_back", _("What is published differs in nothing from this release but the generation."))
        if made[0].generation != base + 1:  # somebody was quicker, between the look at the base and the lock on the node
            raise _stale(publication, made[0].generation - 1)
        _check_restored(made[-1], wanted, publication)
        after = {"generation": made[-1].generation, "as_in": release.generation}
        record(actor=actor, action="roll back", kind="publication", name=publication.path, after=after, reason=reason)
    return made[-1]


def gone(what: Any, hint: Any = "") -> Problem:
    """A room cannot restore a value any more: what it names is not there."""
    return conflict("cannot_be_restored", what, hint=hint)


def _check_restored(made: Release, wanted: Mapping[str, str], publication: Publication) -> None:
    """Half a rollback is none: each key of the release has its value again. Keys of others are theirs, new ones of ours stay."""
    kept = _FOLLOWS | {key for key, _value in publication.foreign_keys}
    now = releases.values_of(made)
    left = {key: (value, now.get(key)) for key, value in wanted.items() if key not in kept and now.get(key) != value}
    if left:
        told = ", ".join(f"{key}: {was!r}" for key, (was, _is) in left.items())
        raise conflict(
            "cannot_be_restored",
            _("Not everything of this release can be had again: {keys}.").format(keys=told),
            hint=_("These follow from something else, such as the cluster of a group's topic: roll that back first."),
            extra={"keys": {key: {"wanted": was, "would_be": is_} for key, (was, is_) in left.items()}},
        )


def _stale(publication: Publication, seen: int) -> Problem:
    now = Release.objects.filter(publication=publication).order_by("-generation").first()
    extra: dict[str, Any] = {"base": seen}
    if now is not None:
        extra["latest"] = {
            "id": now.pk, "generation": now.generation, "kind": now.kind, "author": now.author_name, "message": now.message,
            "created_at": now.created_at.isoformat(),
        }  # fmt: skip
    return conflict(
        "stale_base",
        _("Generation {base} is not the latest of this node any more.").format(base=seen),
        hint=_("Look at what would change now, and decide anew."),
        extra=extra,
    )
