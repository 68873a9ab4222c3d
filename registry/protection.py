"""Who may do what with the nodes that registrars write: the ACL of each path, and giving it to nodes that stand already.

`protected`: everybody reads, only our credentials write. Clients without credentials go on as before: below topics, groups and running
shadow consumers they create and delete their own nodes, for which ZooKeeper asks the permission of the parent.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import structlog
from django.conf import settings
from django.utils.translation import gettext as _
from kazoo.exceptions import BadVersionError, NoAuthError, NoNodeError
from kazoo.security import ACL, ANYONE_ID_UNSAFE, OPEN_ACL_UNSAFE, Id, Permissions, make_digest_acl

from mqadmin_sdk.zk import paths
from registry import ensemble
from registry.models import Publication

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mqadmin_sdk.zk import Client

logger = structlog.get_logger(__name__)

PROTECTED, OPEN = "protected", "open"
#: Requests on their way at once.
CHUNK = 500
#: Seconds between looks at the ACLs of all nodes, besides the one after each connection.
LOOK_EVERY = 600.0
_FIXED = (
    "/zms",
    paths.CLUSTERS,
    paths.TOPICS,
    paths.GROUPS,
    paths.SHADOW,
    paths.SHADOW_INSTANCES,
    paths.OWNER.rpartition("/")[0],
    paths.OWNER,
)
_CLIENTS_CREATE = Permissions.READ | Permissions.CREATE | Permissions.DELETE


class Protection:
    """The ACLs that follow from the settings."""

    def __init__(self, policy: str, credentials: Sequence[str] = ()) -> None:
        if policy not in {PROTECTED, OPEN}:
            raise ValueError(f"ZOOKEEPER_ACL is {PROTECTED} or {OPEN}, not {policy!r}.")
        if policy == PROTECTED and not credentials:
            raise ValueError("ZOOKEEPER_ACL=protected needs ZOOKEEPER_AUTH: nobody could write.")
        self.protects = policy == PROTECTED
        self.manages = bool(credentials)  # without credentials nothing was ever protected by us
        self._ours = [make_digest_acl(*one.split(":", 1), all=True) for one in credentials]

    def acl(self, path: str) -> list[ACL]:
        """The ACL of a node of ours; the first of several credentials owns it."""
        if not self.protects:
            return list(OPEN_ACL_UNSAFE)
        clients = path.rpartition("/")[0] in {paths.TOPICS, paths.GROUPS} or path == paths.SHADOW_INSTANCES
        return [self._ours[0], ACL(_CLIENTS_CREATE if clients else Permissions.READ, ANYONE_ID_UNSAFE)]

    def may_write(self, found: Sequence[ACL]) -> bool:
        """Whether a node with this ACL lets us write, create below it and delete there, as far as it can be told from here."""
        if any(one.id.scheme not in {"world", "digest"} for one in found):
            return True  # by address, by certificate: ZooKeeper will say
        needed = Permissions.WRITE | Permissions.CREATE | Permissions.DELETE
        us = {ANYONE_ID_UNSAFE, *(one.id for one in self._ours)}
        return any(one.perms & needed == needed and Id(*one.id) in us for one in found)


def from_settings() -> Protection:
    """By ZOOKEEPER_ACL and ZOOKEEPER_AUTH. Raises ValueError for what cannot be."""
    return Protection(settings.ZOOKEEPER_ACL, ensemble.access().credentials)


def not_ours(found: Sequence[ACL]) -> str:
    """Say why nothing can be written, naming those who could."""
    owners = ", ".join(sorted({one.id.id.partition(":")[0] for one in found if one.id.scheme == "digest"})) or _("others")
    return _(
        "The ACL of ZooKeeper's nodes lets only {owners} write: ZOOKEEPER_AUTH is missing here, names another user or has a wrong password."
    ).format(owners=owners)


def refused() -> str:
    """What a row says whose node we may not touch."""
    return _("ZooKeeper refuses it: the ACL of the node, or of the one above, does not allow it to our credentials (ZOOKEEPER_AUTH).")


class Keeper:
    """Sees to it that each node that stands has the ACL that it should have. One thread uses it."""

    def __init__(self, zookeeper: Client, protection: Protection) -> None:
        self._zookeeper, self._protection = zookeeper, protection
        self._asked = threading.Event()
        self.trouble = ""  # why some nodes do not have their ACL

    def ask(self) -> None:
        """Let it look at once."""
        self._asked.set()

    def step(self) -> None:
        """Wait for a reason, then look at all nodes. Raises ZooKeeper's error; it is to be asked again then."""
        self._asked.wait(LOOK_EVERY)
        self._asked.clear()
        if not self._protection.manages or not self._zookeeper.connected:
            return
        try:
            changed, denied = self.look()
        except BaseException:
            self.ask()
            raise
        self.trouble = (
            _("{count} nodes belong to other credentials than ours and are not protected as they should be, {path} among them.").format(
                count=len(denied), path=denied[0]
            )
            if denied
            else ""
        )
        if changed or denied:
            logger.info("node_acls_set", changed=changed, denied=len(denied), protected=self._protection.protects)

    def look(self) -> tuple[int, list[str]]:
        """Compare the ACL of every node of ours and set it where it differs: how many were set, and which are not ours to change."""
        changed, denied = 0, []
        for chunk in self._chunks():
            asked = [(path, self._zookeeper.get_acls_async(path)) for path in chunk]
            setting = []
            for path, answer in asked:
                found = _answer(answer)
                wanted = self._protection.acl(path)
                if isinstance(found, NoAuthError):
                    denied.append(path)
                elif found is not None and _entries(found[0]) != _entries(wanted):
                    # Conditional on the ACL's own version: another registrar may just have done the same.
                    setting.append((path, self._zookeeper.set_acls_async(path, wanted, version=found[1].aversion)))
            for path, answer in setting:
                done = _answer(answer)
                if isinstance(done, NoAuthError):
                    denied.append(path)
                changed += done is not None and not isinstance(done, NoAuthError)
        return changed, denied

    def _chunks(self) -> Iterator[list[str]]:
        chunk = list(_FIXED)
        parents = {""}
        for path in Publication.objects.live().order_by("pk").values_list("path", flat=True).iterator(chunk_size=CHUNK):
            above = path.rpartition("/")[0]
            while above not in parents and above not in _FIXED:  # the folders above shadow groups
                parents.add(above)
                chunk.append(above)
                above = above.rpartition("/")[0]
            chunk.append(path)
            if len(chunk) >= CHUNK:
                yield chunk
                chunk = []
        yield chunk


def _answer(result: Any) -> Any:
    """The answer, None if there is no node or its ACL was changed meanwhile, and the error where it is refused."""
    try:
        return result.get(timeout=30)
    except NoAuthError as error:
        return error
    except (NoNodeError, BadVersionError):
        return None


def _entries(acl: Sequence[ACL]) -> set[tuple[int, str, str]]:
    return {(one.perms, *one.id) for one in acl}
