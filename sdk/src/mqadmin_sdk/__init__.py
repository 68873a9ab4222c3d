"""The SDK of mqadmin: an application connects, reads the metadata of its topics and groups, and follows every change."""

from mqadmin_sdk.client import Client, NotConnectedError
from mqadmin_sdk.metadata import BrokenNodeError, ClusterMetadata, GroupMetadata, NotPublishedError, ShadowGroup, TopicMetadata
from mqadmin_sdk.subscriptions import ShadowSubscription, Subscription
from mqadmin_sdk.version import VERSION
from mqadmin_sdk.zk import Access, AccessError

__all__ = [
    "Access",
    "AccessError",
    "BrokenNodeError",
    "Client",
    "ClusterMetadata",
    "GroupMetadata",
    "NotConnectedError",
    "NotPublishedError",
    "ShadowGroup",
    "ShadowSubscription",
    "Subscription",
    "TopicMetadata",
]
__version__ = VERSION
