"""The page of messages: a topic and a bounded time, searched; one status shape per group; a message beside it or on its own."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from clusters.models import Kind
from core.approvals.models import State
from core.console.pages import Page
from core.errors import Problem
from messages import reading, scope, services
from messages.console.showing import BESIDE, message_context, send_action
from messages.types import Page as StorePage
from messages.types import StoredMessage

ROWS = 50
SPANS = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}


class Window:
    """The time that is searched, from the address: `range` and `to`; without `to` it ends now."""

    def __init__(self, request: HttpRequest) -> None:
        asked = request.GET.get("range", "")
        self.key = asked if asked in SPANS else "24h"
        self.span = SPANS[self.key]
        self.end = self._moment(request.GET.get("to", ""))
        self.open = self.end is None
        self.until = self.end or timezone.now()
        self.begin = self.until - self.span

    @staticmethod
    def _moment(value: str) -> datetime | None:
        try:
            moment = datetime.fromtimestamp(int(value), UTC) if value.isascii() and value.isdigit() and len(value) < 12 else None
        except (ValueError, OverflowError, OSError):
            return None
        return moment if moment and datetime(2020, 1, 1, tzinfo=UTC) < moment < timezone.now() else None

    def context(self) -> dict[str, Any]:
        """Links to the time before and after, and the ranges."""
        later = int((self.until + self.span).timestamp())
        return {
            "begin": self.begin,
            "until": self.until,
            "open_end": self.open,
            "earlier": int(self.begin.timestamp()),
            "later": None if self.open else (later if later < timezone.now().timestamp() else 0),
            "ranges": [
                {"key": key, "label": label, "on": key == self.key}
                for key, label in (("1h", _("1 h")), ("24h", _("24 h")), ("7d", _("7 d")), ("30d", _("30 d")))
            ],
        }


def terms(words: str) -> dict[str, Any]:
    """What was typed: `key:…`, `tag:…`, `id:…`; without a prefix a long number is an id, else it is a key."""
    found: dict[str, Any] = {}
    for term in words.replace("\x00", "").split()[:4]:
        name, colon, value = term.partition(":")
        if not colon or name not in {"key", "tag", "id"}:
            name, value = ("id", term) if term.isascii() and term.isdigit() and 12 <= len(term) <= 19 else ("key", term)
        if name == "id":
            found["message_id"] = int(value) if value.isascii() and value.isdigit() and len(value) <= 19 else 0
        elif value:
            found[name] = value[:255]
    return found


class Messages(Page):
    """Messages of one topic, newest first."""

    permission = "mq_messages.view_message"
    here = "messages"
    title = gettext_lazy("Messages")
    template_name = "messages/list.html"

    def get(self, request: HttpRequest) -> HttpResponse:
        """The search that the address describes, and the open message beside it."""
        topics = list(
            scope.topics(request.user)
            .filter(cluster__kind=Kind.BUILTIN, state__in=[State.ACTIVE, State.RETIRED])
            .order_by("name")
            .values_list("pk", "name")[:500]
        )
        asked = request.GET.get("topic", "").replace("\x00", "").strip()
        name = asked or (topics[0][1] if topics else "")
        topic_id = next((pk for pk, known in topics if known == name), None) or scope.topic_id(request.user, name)
        words = request.GET.get("q", "").strip()[:300]
        searched = terms(words)
        if "message_id" in searched and (moved := self._elsewhere(searched["message_id"], topic_id)):
            return moved
        window = Window(request)
        page = self._search(topic_id, searched, window)
        opened = self._opened()
        names: list[str] = []
        statuses: dict[int, list[tuple[str, str]]] = {}
        lines: dict[int, str] = {}
        if page.items and topic_id is not None:
            ids = [m.id for m in page.items]
            names, statuses = reading.statuses_of(
                topic_id=topic_id, message_ids=ids, visible=lambda found: scope.visible_groups(request.user, found)
            )
            lines = reading.previews(topic_id=topic_id, message_ids=ids) if scope.may_read_body(request.user, topic_id) else {}
        send_url = reverse("admin:messages_send") + (f"?{urlencode({'topic': name})}" if topic_id is not None else "")
        return self.show(
            {
                "topics": [known for _pk, known in topics],
                "topic": name,
                "unknown_topic": bool(asked) and topic_id is None,
                "q": words,
                "window": window.context(),
                "by_id": "message_id" in searched,
                "rows": [{"m": m, "dots": statuses.get(m.id, []), "preview": lines.get(m.id, "")} for m in page.items],
                "groups": reading.short_names(names),
                "next": page.next,
                "first_page": "cursor" not in request.GET,
                "searched_to": reading.searched_to(page),
                "opened": opened,
                "send": send_action(request, _("Send a message"), send_url),
                **(message_context(request, opened, most=BESIDE) if opened else {}),
            }
        )

    def _search(self, topic_id: int | None, searched: dict[str, Any], window: Window) -> StorePage[StoredMessage]:
        if topic_id is None:
            return StorePage([])
        if "message_id" in searched:  # an id is found whenever it was sent
            return services.search(topic_id=topic_id, message_id=searched["message_id"])
        cursor = self.request.GET.get("cursor") or None
        try:
            return services.search(
                topic_id=topic_id,
                sent_from=window.begin,
                sent_to=None if window.open else window.until,
                limit=ROWS,
                cursor=cursor,
                **searched,
            )
        except Problem as problem:
            if problem.code != "invalid_cursor":
                raise
            return services.search(
                topic_id=topic_id, sent_from=window.begin, sent_to=None if window.open else window.until, limit=ROWS, **searched
            )

    def _elsewhere(self, message_id: int, topic_id: int | None) -> HttpResponse | None:
        """An id of another topic, or of a delayed or half message, is shown on its own page."""
        found = load(self.request.user, message_id)
        if found is not None and (found.topic_id != topic_id or found.state != "accepted"):
            return HttpResponseRedirect(reverse("admin:messages_detail", args=[found.id]))
        return None

    def _opened(self) -> StoredMessage | None:
        number = self.request.GET.get("id", "")
        return load(self.request.user, int(number)) if number.isascii() and number.isdigit() and len(number) <= 19 else None


def load(user: Any, message_id: int) -> StoredMessage | None:
    """A message, None if there is none for this person."""
    try:
        return scope.message(user, message_id)
    except Problem as problem:
        if problem.code != "not_found":
            raise
        return None


class Detail(Page):
    """One message on a page of its own."""

    permission = "mq_messages.view_message"
    here = "messages"
    template_name = "messages/detail.html"

    def get(self, request: HttpRequest, message_id: int) -> HttpResponse:
        """By its id, or by the id that the producer of a delayed message got."""
        message = scope.message(request.user, message_id)
        topic_url = f"{reverse('admin:messages_list')}?{urlencode({'topic': message.topic})}"
        return self.show(
            {
                "title": message.key or _("Message {id}").format(id=message.id),
                "crumbs": [(_("Messages"), reverse("admin:messages_list")), (message.topic, topic_url)],
                **message_context(request, message),
            }
        )


class Body(Page):
    """The body as a file."""

    permission = scope.BODY
    here = "messages"

    def get(self, request: HttpRequest, message_id: int) -> HttpResponse:
        """Bytes, never shown by the browser itself."""
        message = scope.message(request.user, message_id, scope.BODY)
        headers = {"Content-Disposition": f'attachment; filename="message-{message.id}"', "X-Content-Type-Options": "nosniff"}
        return HttpResponse(message.body, content_type="application/octet-stream", headers=headers)
