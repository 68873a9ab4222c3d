"""The room as a Django application; its label differs from its name because Django has an app `messages` of its own."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class MessagesConfig(AppConfig):
    """The message store."""

    name = "messages"
    label = "mq_messages"
    verbose_name = _("Messages")

    def ready(self) -> None:
        """Register the system checks of the database that the horizon's proof rests on."""
        from messages import checks  # noqa: F401
