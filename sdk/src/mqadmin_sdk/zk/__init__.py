"""ZooKeeper for mqadmin: a kazoo client with persistent recursive watches and bulk reads, the node formats and their paths."""

from mqadmin_sdk.zk.access import Access, AccessError
from mqadmin_sdk.zk.client import Client, NodeData, PerProcess, ServerTooOldError, TreeEvent, TreeWatch

__all__ = ["Access", "AccessError", "Client", "NodeData", "PerProcess", "ServerTooOldError", "TreeEvent", "TreeWatch"]
