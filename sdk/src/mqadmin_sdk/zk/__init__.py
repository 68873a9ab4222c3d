"""ZooKeeper for mqadmin: a kazoo client with persistent recursive watches and bulk reads, the node formats and their paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqadmin_sdk import lazy

if TYPE_CHECKING:
    from mqadmin_sdk.zk.access import Access, AccessError
    from mqadmin_sdk.zk.client import Client, NodeData, PerProcess, ServerTooOldError, TreeEvent, TreeWatch

__all__ = ["Access", "AccessError", "Client", "NodeData", "PerProcess", "ServerTooOldError", "TreeEvent", "TreeWatch"]

if not TYPE_CHECKING:
    __getattr__ = lazy.names(
        __name__, {"access": "Access AccessError", "client": "Client NodeData PerProcess ServerTooOldError TreeEvent TreeWatch"}
    )
