"""The SDK of mqadmin: an application sends and receives on topics wherever they live, and follows every change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqadmin_sdk import lazy
from mqadmin_sdk.version import VERSION

if TYPE_CHECKING:
    from mqadmin_sdk.client import Client, NotReadyError
    from mqadmin_sdk.consuming.context import LogContext
    from mqadmin_sdk.consuming.shadows import Shadowing, shadow
    from mqadmin_sdk.errors import (
        Busy,
        ConflictError,
        ForbiddenError,
        InvalidError,
        MqadminError,
        NotAuthenticatedError,
        NotFoundError,
        ProblemError,
        TransportError,
        UnavailableError,
        UnreachableError,
        UnsupportedError,
    )
    from mqadmin_sdk.following import NotConnectedError
    from mqadmin_sdk.http import AppKey, ControlPlane, Token
    from mqadmin_sdk.message import Dead, Later, Message, Outgoing, SendResult
    from mqadmin_sdk.metadata import BrokenNodeError, ClusterMetadata, GroupMetadata, NotPublishedError, ShadowGroup, TopicMetadata
    from mqadmin_sdk.producing import BatchError, Transaction, UndecidedError
    from mqadmin_sdk.subscriptions import ShadowSubscription, Subscription
    from mqadmin_sdk.transports import HalfMessage
    from mqadmin_sdk.zk import Access, AccessError

__all__ = [
    "Access",
    "AccessError",
    "AppKey",
    "BatchError",
    "BrokenNodeError",
    "Busy",
    "Client",
    "ClusterMetadata",
    "ConflictError",
    "ControlPlane",
    "Dead",
    "ForbiddenError",
    "GroupMetadata",
    "HalfMessage",
    "InvalidError",
    "Later",
    "LogContext",
    "Message",
    "MqadminError",
    "NotAuthenticatedError",
    "NotConnectedError",
    "NotFoundError",
    "NotPublishedError",
    "NotReadyError",
    "Outgoing",
    "ProblemError",
    "SendResult",
    "ShadowGroup",
    "ShadowSubscription",
    "Shadowing",
    "Subscription",
    "Token",
    "TopicMetadata",
    "Transaction",
    "TransportError",
    "UnavailableError",
    "UndecidedError",
    "UnreachableError",
    "UnsupportedError",
    "shadow",
]
__version__ = VERSION

if not TYPE_CHECKING:  # which would take any name for right
    __getattr__ = lazy.names(
        __name__,
        {
            "client": "Client NotReadyError",
            "consuming.context": "LogContext",
            "consuming.shadows": "Shadowing shadow",
            "errors": (
                "Busy ConflictError ForbiddenError InvalidError MqadminError NotAuthenticatedError "
                "NotFoundError ProblemError TransportError UnavailableError UnreachableError UnsupportedError"
            ),
            "following": "NotConnectedError",
            "http": "AppKey ControlPlane Token",
            "message": "Dead Later Message Outgoing SendResult",
            "metadata": "BrokenNodeError ClusterMetadata GroupMetadata NotPublishedError ShadowGroup TopicMetadata",
            "producing": "BatchError Transaction UndecidedError",
            "subscriptions": "ShadowSubscription Subscription",
            "transports": "HalfMessage",
            "zk": "Access AccessError",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
