"""What the commands of one call share: settings, the control plane, the output; and asking the control plane."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

import click

from mqadmin_sdk.cli import settings as configuration
from mqadmin_sdk.cli.outcomes import CommandError, Exit
from mqadmin_sdk.cli.output import Output
from mqadmin_sdk.errors import Busy, ConflictError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mqadmin_sdk.cli.settings import Settings
    from mqadmin_sdk.http import ControlPlane

TIMEOUT = 30.0  # seconds for a request
_PAGE = 500  # rows that the API gives at once
_PATIENCE = 30.0  # seconds that a server with no time is asked again


class Session:
    """One call of mqctl. What a command does not need is not made."""

    def __init__(self) -> None:
        self.given: dict[str, str] = {}  # --url, --profile, --zookeeper, --output
        self._settings: Settings | None = None
        self._plane: ControlPlane | None = None
        self._making = threading.Lock()  # `lag` asks with several threads
        self._output: Output | None = None

    @property
    def settings(self) -> Settings:
        """Where things are. Raises CommandError (usage)."""
        if self._settings is None:
            url, profile, zookeeper = (self.given.get(name, "") for name in ("url", "profile", "zookeeper"))
            self._settings = configuration.load(url=url, profile=profile, zookeeper=zookeeper)
        return self._settings

    @property
    def output(self) -> Output:
        """Where to print."""
        if self._output is None:
            self._output = Output(self.given.get("output", "table"))
        return self._output

    @property
    def plane(self) -> ControlPlane:
        """The control plane, with the credential. Raises CommandError (usage)."""
        with self._making:
            if self._plane is None:
                self._plane = self._connect()
            return self._plane

    def _connect(self) -> ControlPlane:
        from mqadmin_sdk.http import AppKey, ControlPlane, Token

        chosen = self.settings
        if not chosen.url:
            hint = "Set MQADMIN_URL and MQADMIN_TOKEN, or make a profile: docs/mqctl.md."
            raise CommandError("Where is mqadmin?", code=Exit.USAGE, hint=hint)
        if not chosen.token and not (chosen.app_key and chosen.app_secret):
            raise CommandError(
                f"There is no credential for {chosen.url}.",
                code=Exit.USAGE,
                hint="Set MQADMIN_TOKEN, or MQADMIN_APP_KEY and MQADMIN_APP_SECRET; a profile's are used at its own address only.",
            )
        credential = Token(chosen.token) if chosen.token else AppKey(chosen.app_key, chosen.app_secret)
        try:
            return ControlPlane(chosen.url, credential=credential, timeout=TIMEOUT, ca=chosen.ca)
        except (ValueError, OSError) as error:
            raise CommandError(str(error), code=Exit.USAGE) from error

    # --- asking ---------------------------------------------------------------------------------------------------------

    def get(self, path: str, /, *, request_timeout: float | None = None, **params: Any) -> Any:
        """Read a document; parameters that are None are left out."""
        return self._patient("GET", path, params=params, timeout=request_timeout, repeat=True)

    def rows(self, path: str, /, *, limit: int | None = None, **params: Any) -> Iterator[dict[str, Any]]:
        """Read a list to its end or to so many rows, page by page."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            page = self.get(path, limit=_PAGE if left is None else min(left, _PAGE), cursor=cursor, **params)
            rows = page["results"] if left is None else page["results"][:left]
            yield from rows
            left = None if left is None else left - len(rows)
            cursor = cursor_of(page.get("next"))
            if cursor is None:
                return

    def post(self, path: str, body: Any = None, /, *, wait: str | None = None, timeout: float = 30.0, **params: Any) -> Any:
        """Write, once: the server knows a repeated one by its key. `wait` is published or applied, for `timeout` seconds at most."""
        if wait:
            params |= {"wait": wait, "timeout": f"{timeout * 1000:.0f}ms"}
        headers = {} if params.get("dry_run") else {"Idempotency-Key": f"mqctl-{uuid.uuid4()}"}
        longest = timeout + TIMEOUT if wait else max(timeout, TIMEOUT)
        return self._patient("POST", path, body if body is not None else {}, params=params, headers=headers, timeout=longest, repeat=True)

    def send(self, path: str, body: Any) -> Any:
        """Send messages that have ids, so that it may be repeated."""
        return self._patient("POST", path, body, repeat=True)

    def _patient(self, method: str, path: str, body: Any = None, *, params: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Ask, and again where the server asks for patience."""
        given = {name: _parameter(value) for name, value in (params or {}).items() if value is not None}
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return self.plane.ask(method, path, body, params=given, **options)[0]
            except Busy as busy:
                pause = busy.retry_after or 1.0
                if time.monotonic() + pause > until:
                    raise
            except ConflictError as conflict:
                pause = 1.0
                if conflict.code != "idempotency_in_flight" or time.monotonic() + pause > until:
                    raise
            except UnicodeEncodeError:  # what was asked, not what was answered
                raise
            except ValueError as error:
                raise CommandError(f"The answer is no JSON: {error}") from error
            self.output.note(f"{self.settings.url} has no time: again in {pause:g} s.")
            time.sleep(pause)

    def close(self) -> None:
        """Close the connections."""
        if self._plane is not None:
            self._plane.close()


def part(name: object) -> str:
    """Return a name as a part of an address."""
    return quote(str(name), safe="")


def cursor_of(address: str | None) -> str | None:
    """Return the cursor in the address of the next page; None at the end."""
    return parse_qs(urlsplit(address).query).get("cursor", [None])[0] if address else None


def _parameter(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def confirm(question: str, *, yes: bool) -> None:
    """Ask the person; without one, --yes is needed. Raises CommandError, also if they say no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Nobody can be asked here.", code=Exit.USAGE, hint="Say --yes.")
    if not click.confirm(question, err=True):
        raise CommandError("Nothing was done.")
