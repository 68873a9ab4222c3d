"""Messages in the console: browse, read, send, the delayed ones, the half ones, the dead ones and their redrives."""

from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext_lazy, pgettext_lazy

from core.console import slots
from messages.console import balancing, browsing, dead, delayed, editing, half, instances, ordering, position, pushing, sending, storage

urlpatterns: list[URLPattern] = [
    path("messages/", browsing.Messages.as_view(), name="messages_list"),
    path("messages/send/", sending.Send.as_view(), name="messages_send"),
    path("messages/<int:message_id>/", browsing.Detail.as_view(), name="messages_detail"),
    path("messages/<int:message_id>/body/", browsing.Body.as_view(), name="messages_body"),
    path("delayed/", delayed.Delayed.as_view(), name="messages_delayed"),
    path("delayed/reschedule/", delayed.RescheduleMany.as_view(), name="messages_reschedule_all"),
    path("delayed/cancel/", delayed.CancelMany.as_view(), name="messages_cancel_all"),
    path("delayed/<int:message_id>/reschedule/", delayed.Reschedule.as_view(), name="messages_reschedule"),
    path("delayed/<int:message_id>/cancel/", delayed.Cancel.as_view(), name="messages_cancel"),
    path("dead-letters/", dead.DeadLetters.as_view(), name="messages_dead"),
    path("dead-letters/<str:group>/<int:message_id>/edit/", editing.Edit.as_view(), name="messages_edit"),
    path("dead-letters/export/", dead.Export.as_view(), name="messages_dead_export"),
    *half.urlpatterns,
    path("groups/<str:name>/instances/give-up/", instances.GiveUp.as_view(), name="messages_give_up"),
    path("groups/<str:name>/position/", position.Position.as_view(), name="messages_position"),
    path("groups/<str:name>/position/<int:reset>/undo/", position.Undo.as_view(), name="messages_reset_undo"),
    path("groups/<str:name>/stopped/", ordering.Stopped.as_view(), name="messages_stopped"),
    path("storage/", storage.Storage.as_view(), name="messages_storage"),
]

slots.tab(
    "topic",
    slots.Tab(
        gettext_lazy("Messages"),
        lambda topic: f"{reverse('admin:messages_list')}?topic={topic.name}",
        permission="mq_messages.view_message",
        key="messages",
    ),
)
slots.tab(
    "group",
    slots.Tab(
        gettext_lazy("Dead letters"),
        lambda group: f"{reverse('admin:messages_dead')}?group={group.name}",
        permission="mq_messages.view_message",
        key="dead",
    ),
)
slots.panel("topic", storage.panel)
slots.panel("group", ordering.panel)
slots.panel("group", pushing.panel)
slots.panel("group", instances.panel)
slots.panel("group", balancing.panel)
slots.panel("group.instances", balancing.panel)
slots.tab(
    "group",
    slots.Tab(
        pgettext_lazy("of a group", "Position"),
        lambda group: reverse("admin:messages_position", args=[group.name]),
        permission=position.VIEW,
        key="position",
    ),
)
