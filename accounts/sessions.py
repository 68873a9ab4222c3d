"""Sessions in the database, each with whose it is, from where, and when it was last used."""

from datetime import timedelta
from typing import Any, cast

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions import middleware
from django.contrib.sessions.backends import db
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from accounts.models import PersonSession
from core.request_context import current

#: “Last active” is exact to this; a request within it writes nothing.
TOUCH = timedelta(seconds=60)


class SessionStore(db.SessionStore):
    """Django's own, on a table that knows the person."""

    row: PersonSession | None = None
    agent: str = ""

    @classmethod
    def get_model_class(cls) -> Any:
        """The table."""
        return PersonSession

    def _get_session_from_db(self) -> Any:
        self.row = super()._get_session_from_db()  # type: ignore[misc]
        return self.row

    def create_model_instance(self, data: dict[str, Any]) -> Any:
        """With the person of the session, and from where."""
        row = cast("PersonSession", super().create_model_instance(data))
        row.user_id = data.get(SESSION_KEY)
        row.address, row.agent = current.get().address[:64], self.agent[:300]
        if self.row is not None and self.row.session_key == row.session_key:
            row.created_at = self.row.created_at
        self.row = row
        return row


class SessionMiddleware(middleware.SessionMiddleware):
    """Django's own, which also keeps the browser's name and when the session was last used."""

    def process_request(self, request: HttpRequest) -> None:
        """Tell the store what only the request knows."""
        super().process_request(request)
        request.session.agent = request.headers.get("User-Agent", "")  # type: ignore[attr-defined]

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Once a minute is exact enough for “last active”, and keeps reads from becoming writes."""
        row = getattr(request.session, "row", None)
        if row is not None and row.user_id and timezone.now() - row.active_at > TOUCH:
            PersonSession.objects.filter(pk=row.pk).update(active_at=timezone.now(), address=current.get().address[:64])
        return super().process_response(request, response)
