"""The messages room over REST: a fast data plane of plain views, and resources for people and their tools."""

from django.urls import URLPattern
from rest_framework.routers import BaseRouter

from messages.api import (
    balance_plane,
    clients,
    control_plane,
    data_plane,
    group_plane,
    half_plane,
    instance_plane,
    order_plane,
    position_plane,
    storage_plane,
    transaction_plane,
)

urlpatterns: list[URLPattern] = [
    *data_plane.urlpatterns,
    *clients.urlpatterns,
    *control_plane.urlpatterns,
    *group_plane.urlpatterns,
    *instance_plane.urlpatterns,
    *half_plane.urlpatterns,
    *transaction_plane.urlpatterns,
    *position_plane.urlpatterns,
    *order_plane.urlpatterns,
    *storage_plane.urlpatterns,
    *balance_plane.urlpatterns,
]


def register(router: BaseRouter) -> None:
    """Nothing for the router: all addresses of this room lie below a topic or a group, or are found by a number."""
