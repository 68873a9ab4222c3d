"""Every list of the console and of the API on the large data set, over HTTP: p50 and p95 in milliseconds beside a floor of the same run.

The data set stands in a database of its own beside the one that is given (NAME_lists), made at the first run; a database that holds it
already is used as it is. MQADMIN_BENCH_SCALE makes a smaller one, MQADMIN_BENCH_ROUNDS sets how often each address is asked.
"""

from __future__ import annotations

import http.client
import os
import re
import statistics
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from html import unescape
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.core.management import call_command
from django.db import connection, connections
from django.utils import timezone

from benchmarks import Row, dataset, lists
from benchmarks.rest import serving

ROUNDS = int(os.environ.get("MQADMIN_BENCH_ROUNDS", "7"))
SCALE = float(os.environ.get("MQADMIN_BENCH_SCALE", "1"))
TARGET = 300.0  # milliseconds, p95
PASSWORD = "a password of the benchmark only"
_NEXT = re.compile(r'href="([^"]*[?&;](?:cursor|before|after)=[^"]*)"')


@dataclass
class Measured:
    """The times of one list as one person, in milliseconds, by variant."""

    address: lists.Address
    times: dict[str, list[float]] = field(default_factory=dict)
    refused: int = 0

    @property
    def all(self) -> list[float]:
        return [one for times in self.times.values() for one in times]

    @property
    def worst(self) -> tuple[str, float]:
        """The slowest variant with its median."""
        return max(((what, statistics.median(times)) for what, times in self.times.items()), key=lambda pair: pair[1])


def run() -> list[Row]:
    """Fill if needed, measure as an operator and as a developer of one application, print the table of lists, return the rows."""
    use_data_set()
    from django.contrib.auth.models import Group

    rows: list[Row] = []
    with serving() as port:
        for person in people():
            measured, floors = measure(Browser(port, person.username), person)
            rows += report(person.first_name, measured, floors)
    if not Group.objects.exists():
        print("  (there are no roles in this database: the developer sees nothing)")
    slow = [row for row in rows if row.measured > TARGET]
    print(f"\n{len(rows)} lists, {len(slow)} above {TARGET:.0f} ms p95{': ' + ', '.join(row.name for row in slow) if slow else ''}")
    return rows


def use_data_set() -> None:
    """Go over to the database that holds the data set, making it if there is none."""
    from topics.models import Topic

    if Topic.objects.filter(pk__gt=dataset.ROOT).exists():
        return
    name = f"{connection.settings_dict['NAME']}_lists"
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE DATABASE {connection.ops.quote_name(name)}")
    connections.close_all()
    connection.settings_dict["NAME"] = name
    call_command("migrate", interactive=False, verbosity=0)
    if not Topic.objects.exists():
        print(f"  filling {name} …", flush=True)
        dataset.fill(scale=SCALE)


def people() -> list[Any]:
    """An operator who sees everything, and a developer who answers for one application with a few dozen topics and groups."""
    from django.contrib.auth.models import Group

    from accounts.models import Application, User

    found = []
    for username, word in (("bench.operator", "operator"), ("bench.developer", "developer")):
        person, _made = User.objects.update_or_create(
            username=username, defaults={"first_name": word, "is_staff": True, "is_active": True, "is_superuser": False}
        )
        person.set_password(PASSWORD)
        person.save()
        role = Group.objects.filter(name__iexact=word).first()
        if role is not None:
            person.groups.set([role])
        elif word == "operator":  # no roles yet
            User.objects.filter(pk=person.pk).update(is_superuser=True)
        found.append(User.objects.get(pk=person.pk))
    middle = dataset.ROOT + max(1, dataset.Size.of(SCALE).applications // 2)
    Application.objects.filter(pk=middle).update(owner=found[1])
    return found


class Browser:
    """One keep-alive connection of a signed-in person, with a session for the console and a token for the API."""

    def __init__(self, port: int, username: str) -> None:
        from accounts.models import ApiToken, User

        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.cookies: dict[str, str] = {}
        self.ask("/admin/login/")
        form = {"username": username, "password": PASSWORD, "csrfmiddlewaretoken": self.cookies["csrftoken"], "next": "/admin/"}
        status, _body = self.ask("/admin/login/", urlencode(form))
        if status != 302:
            raise RuntimeError(f"{username} cannot sign in: {status}")
        _token, self.secret = ApiToken.issue(
            user=User.objects.get(username=username), name="bench", expires_at=timezone.now() + timedelta(hours=8)
        )

    def ask(self, path: str, body: str | None = None) -> tuple[int, bytes]:
        """Status and body; cookies are kept."""
        headers = {"Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items()), "Accept-Encoding": "identity"}
        if path.startswith("/api/"):
            headers = {"Authorization": f"Token {self.secret}"}
        if body is not None:
            headers |= {"Content-Type": "application/x-www-form-urlencoded", "Referer": "http://127.0.0.1/"}
        self.connection.request("GET" if body is None else "POST", path, body, headers)
        response = self.connection.getresponse()
        raw = response.read()
        for name, value in response.getheaders():
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                self.cookies[key] = rest.partition(";")[0]
        return response.status, raw

    def timed(self, path: str) -> tuple[float, int, bytes]:
        """Milliseconds until the last byte, status, body."""
        began = time.perf_counter()
        status, raw = self.ask(path)
        return (time.perf_counter() - began) * 1000, status, raw


def measure(browser: Browser, person: Any) -> tuple[list[Measured], dict[str, float]]:
    """Every variant of every list, a round after the other, floors in between; what the person may not see is left out."""
    examples = lists.Examples.of_database()
    measured = [Measured(address) for address in (*lists.console(examples, person), *lists.api(examples))]
    for missing in examples.missing:
        print(f"  not measured, no example for its address: {missing}")
    for one in measured:  # warms up, finds out what is there, and goes on to pages far on
        for what, path in list(one.address.variants):
            _spent, status, raw = browser.timed(path)
            if status == 200 and what == "as it comes" and (deep := _follow(browser, path, raw)):
                one.address.variants.append(("some pages on", deep))
            if status != 200:
                one.refused += 1
                one.address.variants.remove((what, path))
                if status not in {302, 403, 404}:
                    print(f"  {status} at {path}")
    floors: dict[str, list[float]] = {name: [] for name in lists.floors()}
    for _round in range(ROUNDS):
        for one in measured:
            for what, path in one.address.variants:
                one.times.setdefault(what, []).append(browser.timed(path)[0])
        for name, path in lists.floors().items():
            floors[name] += [browser.timed(path)[0] for _ in range(5)]
    return [one for one in measured if one.times], {name: statistics.median(times) for name, times in floors.items()}


def _follow(browser: Browser, path: str, raw: bytes, pages: int = 5) -> str:
    """The address some pages on, by the links that the answer itself gives; empty if there is only one."""
    address = ""
    for _ in range(pages):
        if path.startswith("/api/"):
            found = re.search(rb'"next":"(http[^"]+)"', raw)
            link = found.group(1).decode() if found else ""
        else:
            links = _NEXT.findall(raw.decode())
            link = unescape(links[-1]) if links else ""
            link = urlsplit(path).path + link if link.startswith("?") else link
        if not link:
            break
        parts = urlsplit(link)
        address = f"{parts.path}?{parts.query}"
        _spent, status, raw = browser.timed(address)
        if status != 200:
            return ""
    return address


def report(word: str, measured: list[Measured], floors: dict[str, float]) -> list[Row]:
    """Print p50, p95, the slowest variant; the ratio is p50 over the floor of its kind."""
    print(f"\nfloors as {word}: " + ", ".join(f"{name} {value:.1f} ms" for name, value in floors.items()))
    print(f"\n| list, as {word} | asked | p50 | p95 | ratio | slowest variant |\n|---|---:|---:|---:|---:|---|")
    rows = []
    for one in sorted(measured, key=lambda one: -_p95(one.all)):
        p50, p95, floor = statistics.median(one.all), _p95(one.all), floors[one.address.kind]
        slowest, median = one.worst
        print(f"| {one.address.name} | {len(one.all)} | {p50:.0f} | {p95:.0f} | {p50 / floor:.1f} | {slowest}: {median:.0f} |")
        sys.stdout.flush()
        rows.append(
            Row(f"{one.address.name} as {word}, p95", round(p95, 1), round(floor, 1), round(p95 / floor, 1), "ms", f"p50 {p50:.0f}")
        )
    return rows


def _p95(times: list[float]) -> float:
    return statistics.quantiles(times, n=20, method="inclusive")[18] if len(times) > 1 else times[0]
