"""ZooKeeper for mqadmin: a kazoo client with persistent recursive watches and bulk reads, the node formats and their paths."""

from mqadmin_sdk.zk.client import Client, NodeData, PerProcess, ServerTooOldError, TreeEvent, TreeWatch

__all__ = ["Client", "NodeData", "PerProcess", "ServerTooOldError", "TreeEvent", "TreeWatch"]
