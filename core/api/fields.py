"""Serializer fields that the rooms share: references by name, and how a decision reads."""

from datetime import datetime
from typing import Any

from rest_framework import serializers


class NameField(serializers.SlugRelatedField[Any]):
    """A reference by its natural key; what does not exist is an error of this field, with what to do."""

    def __init__(self, slug_field: str = "name", *, permission: str = "", **kwargs: Any) -> None:
        """With a permission: what it does not reach for the person who asks does not exist either."""
        super().__init__(slug_field=slug_field, **kwargs)
        self.permission = permission

    def get_queryset(self) -> Any:
        """What can be named."""
        rows: Any = super().get_queryset()
        if not self.permission or "request" not in self.context:
            return rows
        return rows.restrict(getattr(self.context["request"], "user", None), self.permission)

    def to_internal_value(self, data: Any) -> Any:
        """What the database cannot even ask for exists nowhere."""
        if isinstance(data, str) and "\x00" in data:
            self.fail("invalid")
        return super().to_internal_value(data)


class WrittenTimeField(serializers.DateTimeField):
    """A time out of JSON that Postgres has made, read only, and written like all others."""

    def to_representation(self, value: Any) -> Any:
        """As of a column."""
        return super().to_representation(datetime.fromisoformat(value))


class ReasonSerializer(serializers.Serializer[Any]):
    """An action with a reason."""

    reason = serializers.CharField(max_length=2000, help_text="Kept in the audit.")


class NothingSerializer(serializers.Serializer[Any]):
    """An action that needs no fields; one that is sent all the same is refused."""


class OptionalReasonSerializer(serializers.Serializer[Any]):
    """An action with a reason if you like."""

    reason = serializers.CharField(max_length=2000, required=False, allow_blank=True, default="")


def replaced(document: type[serializers.BaseSerializer[Any]]) -> type[serializers.BaseSerializer[Any]]:
    """The document that a PUT answers with: the thing, and `changed`."""
    name = f"Replaced{document.__name__}"
    changed = serializers.BooleanField(help_text="false: all was so already, and nothing was written.")
    fields: dict[str, Any] = {"changed": changed, "__doc__": document.__doc__, "__module__": document.__module__}
    if (meta := getattr(document, "Meta", None)) is not None:
        fields["Meta"] = type("Meta", (meta,), {"fields": [*meta.fields, "changed"]})
    return type(name, (document,), fields)
