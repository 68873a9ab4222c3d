"""A service registry client: who offers what where, kept alive and followed; leaders and sharded jobs. Layouts of Dubbo and ElasticJob."""

from mqadmin_sdk.registry.applications import Application, Applications
from mqadmin_sdk.registry.contract import (
    Notification,
    Registry,
    RegistryClosedError,
    RegistryError,
    RegistryUnavailableError,
    open_registry,
)
from mqadmin_sdk.registry.directory import Directory
from mqadmin_sdk.registry.jobs import ShardedJob, ShardRun
from mqadmin_sdk.registry.leader import LeaderLatch, NotLeadingError
from mqadmin_sdk.registry.shards import average
from mqadmin_sdk.registry.urls import ServiceUrl, UrlError, matches, matches_glob

__all__ = [
    "Application",
    "Applications",
    "Directory",
    "LeaderLatch",
    "NotLeadingError",
    "Notification",
    "Registry",
    "RegistryClosedError",
    "RegistryError",
    "RegistryUnavailableError",
    "ServiceUrl",
    "ShardRun",
    "ShardedJob",
    "UrlError",
    "average",
    "matches",
    "matches_glob",
    "open_registry",
]
