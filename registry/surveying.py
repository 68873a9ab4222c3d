"""A registrar's part of a full check: reads a whole tree and compares it with Postgres, with no transaction open meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from django.db.models import Q
from django.db.models.functions import Now

from registry import rendering
from registry.models import Publication, TreeCheck
from registry.roots import ROOTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mqadmin_sdk.zk import Client

logger = structlog.get_logger(__name__)

#: A registrar that has taken a check on and not answered for so long is dead.
CLAIM = timedelta(seconds=30)
_FIELDS = ("path", "data", "deleted", "generation", "published_generation", "published_digest")


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found in a tree: the nodes that differ, and those that nobody of ours knows."""

    nodes: int
    differing: dict[str, str]
    unknown: list[str]


def answer(zookeeper: Client, name: str) -> bool:
    """Take on one tree that a check waits for; False if there is none. Raises ZooKeeper's error: another look, or registrar, does it."""
    free = TreeCheck.objects.filter(Q(claimed_at=None) | Q(claimed_at__lt=Now() - CLAIM), done_at=None)
    check = free.order_by("pk").first()
    if check is None or free.filter(pk=check.pk).update(claimed_at=Now(), claimed_by=name) != 1:
        return False
    began = time.monotonic()
    try:
        found = survey(zookeeper, check.tree)
    except BaseException:
        TreeCheck.objects.filter(pk=check.pk, claimed_by=name).update(claimed_at=None)
        raise
    milliseconds = round((time.monotonic() - began) * 1000)
    TreeCheck.objects.filter(pk=check.pk, claimed_by=name, done_at=None).update(
        done_at=Now(), nodes=found.nodes, differing=found.differing, unknown=found.unknown, milliseconds=milliseconds
    )
    logger.info("tree_checked", tree=check.tree, nodes=found.nodes, differing=len(found.differing), milliseconds=milliseconds)
    return True


def survey(zookeeper: Client, tree: str) -> Survey:
    """Compare all nodes of a tree; what differs is looked at once more, since it may have been on its way."""
    root, depth = ROOTS[tree]
    zookeeper.sync(root)
    level = [root]
    for _name in range(depth):
        children = zookeeper.multi_children(level)[1]
        level = [f"{parent}/{name}" for parent, names in zip(level, children, strict=True) for name in names or ()]
        if not level:
            break
    wanted = Publication.objects.filter(path__startswith=f"{root}/")
    differing = compare(zookeeper, wanted.values_list(*_FIELDS))
    if differing:
        differing = compare(zookeeper, wanted.filter(path__in=list(differing)).values_list(*_FIELDS))
    known = set(wanted.values_list("path", flat=True))  # after the look at ZooKeeper: what was applied for meanwhile is ours
    return Survey(len(level), differing, sorted(path for path in level if path not in known))


def compare(zookeeper: Client, rows: Iterable[tuple[str, memoryview, bool, int, int, str]]) -> dict[str, str]:
    """How the nodes of these rows differ: missing, changed, pending (an older one of ours still stands) or left (retired, and there)."""
    wanted = list(rows)
    if not wanted:
        return {}
    nodes = zookeeper.multi_read([row[0] for row in wanted])[1]
    found = {}
    for (path, data, deleted, generation, published, digest), node in zip(wanted, nodes, strict=True):
        if deleted:
            if node is not None:
                found[path] = "left"
        elif node is None:
            found[path] = "missing" if published else "pending"
        elif node.data != bytes(data):
            found[path] = "pending" if published < generation and rendering.digest(node.data) == digest else "changed"
    return found
