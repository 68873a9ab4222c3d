"""Throws what the schema allows, and what it forbids, at every endpoint, as several roles: `make fuzz`, and bounded in `make test`.

    make fuzz                      # an hour, a seed of its own, against a server on private services
    make fuzz ARGS="28800"         # eight hours
    make fuzz ARGS="600 --seed 7"  # ten minutes, the same requests again

A failure is: a status of 500 and above, a status, type, header or body that the schema does not know, a page of HTML. Each is told
once, with the request as curl. It ends with status 1 when there was any.
"""

import argparse
import contextlib
import json
import os
import random
import secrets
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]
ROLES = ("administrator", "operator", "developer", "auditor", "anonymous")
WAIT_MS = 20  # a long poll would spend the time on waiting
#: Keys of bodies and queries whose value is a name of something.
NAMED = {"topic": "topic", "application": "application", "owner": "owner", "cluster": "cluster", "group": "group", "username": "owner"}
#: Answers that the product gives on purpose although they are 503: what cannot be told now is not guessed.
UNAVAILABLE = {"instances_unknown"}


class World:
    """What there is to find: topics and groups in every state, and a person with a token for each role."""

    def __init__(self):
        from console_world import make_world

        from accounts.models import Application, User
        from accounts.rolesync import group_of, sync_roles

        sync_roles()
        made = make_world()
        self.people = {}
        for role in ROLES[:-1]:
            person = User.objects.create_user(f"fuzz.{role}", password=secrets.token_urlsafe(), is_staff=True)
            person.groups.set([group_of(role)])
            self.people[role] = person.pk
        Application.objects.filter(pk=made.application.pk).update(owner=self.people["developer"])
        self._messages(made)
        self.known = self._known()

    @staticmethod
    def _messages(made):
        from messages import services
        from messages.types import NewMessage, Outcome

        services.send(topic_id=made.order.pk, messages=[NewMessage(f"body {i}".encode(), key=f"key-{i}", tag="paid") for i in range(20)])
        services.tick()
        batch = services.pull(group_id=made.bill.pk, limit=5, visibility_ms=60_000, consumer="fuzz")
        if batch.messages:
            outcomes = [Outcome(m.id, "dead", error="poison") for m in batch.messages]
            services.settle(group_id=made.bill.pk, lease=batch.lease, outcomes=outcomes)

    @staticmethod
    def _known():
        from benchmarks import lists

        found = {name: [value] for name, value in lists.Examples.of_database().values.items()}
        found["topic"] = ["order_topic", "paid%topic", "pending_topic", "rejected_topic", "retired_topic"]
        found["group"] = ["bill_group", "pending_group", "rejected_group", "suspended_group"]
        found["cluster"] = ["builtin", "kfk-a"]
        return found

    def headers(self, role):
        """A fresh token: the requests before may have revoked it, or taken the person's role away."""
        from datetime import timedelta

        from django.db import connection
        from django.utils import timezone

        from accounts.models import ApiToken, User
        from accounts.rolesync import group_of

        if role == "anonymous":
            return {}
        connection.ensure_connection()
        person, _made = User.objects.update_or_create(pk=self.people[role], defaults={"is_active": True, "username": f"fuzz.{role}"})
        person.groups.set([group_of(role)])
        secret = ApiToken.issue(user=person, name=secrets.token_hex(4), expires_at=timezone.now() + timedelta(hours=24))[1]
        return {"Authorization": f"Token {secret}"}


class Fuzz:
    """Asks, checks, and keeps what was wrong."""

    def __init__(self, schema, world, *, seed, call=None):
        self.schema, self.world, self.seed, self.call_options = schema, world, seed, call or {}
        self.operations = [result.ok() for result in schema.get_all_operations()]
        self.readable = {operation.path: operation for operation in self.operations if operation.method.upper() == "GET"}
        self.failures = {}
        self.asked = Counter()
        self.answers = Counter()

    def everything(self, role, *, examples, until=None, negative=True):
        """Each operation a few times: valid requests, and broken ones."""
        from schemathesis import GenerationMode

        headers = self.world.headers(role)
        for operation in random.Random(self.seed).sample(self.operations, len(self.operations)):
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if negative else (GenerationMode.POSITIVE,):
                if until is not None and time.monotonic() > until:
                    return
                self._operation(operation, mode, role, headers, examples)

    def _operation(self, operation, mode, role, headers, examples):
        from hypothesis import HealthCheck, Phase, given, seed, settings
        from hypothesis import strategies as st
        from hypothesis.errors import Unsatisfiable

        @seed(self.seed)
        @settings(max_examples=examples, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode), number=st.integers(0, 2**32))
        def ask(case, number):
            self.one(self.sensible(case, random.Random(number)), role, headers)

        with contextlib.suppress(Unsatisfiable):  # nothing can be wrong with a request without parameters
            ask()

    def sensible(self, case, dice):
        """Half of the time names and ids of what there is, so that requests get beyond 404."""
        for before, part in pairwise(case.operation.path.split("/")):
            name = part.strip("{}")
            values = self.world.known.get(means(before))
            if part.startswith("{") and values and dice.random() < 0.7:
                case.path_parameters[name] = dice.choice(values)
        if isinstance(case.body, dict | list):
            case.body = self._named(case.body, dice)
        if isinstance(case.query, dict):
            for key in NAMED.keys() & case.query.keys():
                if dice.random() < 0.5:
                    case.query[key] = dice.choice(self.world.known.get(NAMED[key]) or [case.query[key]])
        return case

    def _named(self, value, dice):
        if isinstance(value, list):
            return [self._named(item, dice) for item in value]
        if not isinstance(value, dict):
            return value
        changed = {key: self._named(item, dice) for key, item in value.items()}
        for key in NAMED.keys() & changed.keys():
            if dice.random() < 0.7:
                changed[key] = dice.choice(self.world.known.get(NAMED[key]) or [changed[key]])
        if isinstance(changed.get("wait_ms"), int) and changed["wait_ms"] > WAIT_MS:
            changed["wait_ms"] = WAIT_MS
        return changed

    def one(self, case, role, headers):
        """Ask once, with the current version where one is wanted, and check the answer."""
        sent = dict(headers)
        if case.method in {"PUT", "PATCH", "DELETE"} and not (case.headers or {}).get("If-Match"):
            sent["If-Match"] = self._etag(case, headers) or '"1"'
        response = case.call(headers=sent, **self.call_options)
        self.asked[f"{case.method} {case.operation.path}"] += 1
        self.answers[response.status_code] += 1
        self.check(case, response, role, sent)
        return response

    def _etag(self, case, headers):
        """The version that stands there now; None where nothing can be read."""
        reading = self.readable.get(case.operation.path)
        if reading is None:
            return None
        answer = reading.Case(path_parameters=dict(case.path_parameters)).call(headers=headers, **self.call_options)
        return next((value[0] for name, value in answer.headers.items() if name.lower() == "etag"), None)

    def check(self, case, response, role, headers):
        """Keep each kind of failure once per operation."""
        from schemathesis.checks import not_a_server_error
        from schemathesis.core.failures import Failure, FailureGroup
        from schemathesis.openapi import checks  # noqa: F401 - registers those of OpenAPI
        from schemathesis.specs.openapi.checks import (
            content_type_conformance,
            response_headers_conformance,
            response_schema_conformance,
            status_code_conformance,
        )

        wanted = [not_a_server_error, status_code_conformance, content_type_conformance]
        wanted += [response_headers_conformance, response_schema_conformance]
        if response.status_code == 503 and self._code(response) in UNAVAILABLE:
            wanted.remove(not_a_server_error)
        try:
            case.validate_response(response, checks=wanted)
        except FailureGroup as group:
            found = list(group.exceptions)
        except Failure as failure:
            found = [failure]
        else:
            found = []
        problems = [(getattr(one, "title", type(one).__name__), str(one)) for one in found]
        if b"<html" in response.content[:2000].lower():
            problems.append(("HTML", response.content[:300].decode(errors="replace")))
        for title, text in problems:
            key = (f"{case.method} {case.operation.path}", title, response.status_code)
            if key not in self.failures:
                masked = {k: "Token …" if k == "Authorization" else v for k, v in headers.items()}
                self.failures[key] = f"as {role}: {text[:1500]}\n  {case.as_curl_command(headers=masked)}"
                print(f"\n!! {' · '.join(map(str, key))}\n  {self.failures[key]}", flush=True)

    @staticmethod
    def _code(response):
        try:
            return json.loads(response.content).get("code")
        except (ValueError, AttributeError):
            return None

    def stateful(self, role, *, examples, steps):
        """Requests that follow from another: what a POST made is read, changed and removed along the schema's links."""
        from hypothesis import HealthCheck, Phase, seed, settings

        fuzz, headers = self, self.world.headers(role)

        class Machine(self.schema.as_state_machine()):
            def before_call(self, case):
                fuzz.sensible(case, random.Random(fuzz.seed))

            def get_call_kwargs(self, case):
                sent = dict(headers)
                if case.method in {"PUT", "PATCH", "DELETE"}:
                    sent["If-Match"] = '"1"'
                return {"headers": sent, **fuzz.call_options}

            def validate_response(self, response, case, additional_checks=None, **kwargs):
                fuzz.asked[f"{case.method} {case.operation.path}"] += 1
                fuzz.answers[response.status_code] += 1
                fuzz.check(case, response, role, headers)

        Machine._seed = self.seed
        limits = settings(
            max_examples=examples,
            stateful_step_count=steps,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        from hypothesis.stateful import run_state_machine_as_test

        run_state_machine_as_test(seed(self.seed)(Machine), settings=limits)

    def summary(self):
        """One line."""
        answers = ", ".join(f"{status}: {n}" for status, n in sorted(self.answers.items()))
        never = [f"{o.method.upper()} {o.path}" for o in self.operations if not self.asked[f"{o.method.upper()} {o.path}"]]
        return (
            f"seed {self.seed}: {sum(self.asked.values())} requests to {len(self.operations)} operations ({answers}); "
            f"{len(self.failures)} failures{'; never asked: ' + ', '.join(never) if never else ''}"
        )


def means(part):
    """What the parameter behind this part of a path stands for."""
    from benchmarks import lists

    return lists.meaning(part)


def beside():
    """An empty database NAME_fuzz beside the one of the environment, which then names it: nothing of a run before stands in the way."""
    import psycopg

    given = urlsplit(os.environ["DATABASE_URL"])
    name = given.path.strip("/") + "_fuzz"
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as server:
        server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        server.execute(f'CREATE DATABASE "{name}"')
    os.environ["DATABASE_URL"] = urlunsplit(given._replace(path=f"/{name}"))


def setup():
    """Django, on the database of the environment."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mqadmin.settings")
    os.environ.setdefault("MQADMIN_ACCESS_LOG_LEVEL", "CRITICAL")
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", interactive=False, verbosity=0)


def in_process(world):
    """The schema, with the application behind it."""
    import schemathesis

    from mqadmin.wsgi import application

    headers = {**world.headers("administrator"), "Accept": "application/json"}
    return schemathesis.openapi.from_wsgi("/api/schema/", application, headers=headers)


def bounded(examples, seed):
    """The part of `make test`: in process, the same requests each time."""
    setup()
    world = World()
    fuzz = Fuzz(in_process(world), world, seed=seed)
    for number, role in enumerate(ROLES):
        began = time.monotonic()
        # every role asks everything validly; broken requests are the same code for all of them
        fuzz.everything(role, examples=1 if number else examples, negative=not number)
        print(f"{role}: {time.monotonic() - began:.1f} s, {sum(fuzz.asked.values())} requests so far", flush=True)
    fuzz.stateful("administrator", examples=examples * 3, steps=5)
    return fuzz


def control(seed):
    """Does it find anything at all: the schema does not know of 401, which is all that anonymous ever gets."""
    setup()
    world = World()
    schema = in_process(world)
    for methods in schema.raw_schema["paths"].values():
        for operation in methods.values():
            if isinstance(operation, dict):
                operation.get("responses", {}).pop("401", None)
    fuzz = Fuzz(schema, world, seed=seed)
    fuzz.operations = fuzz.operations[:3]
    fuzz.everything("anonymous", examples=1, negative=False)
    return fuzz


def for_hours(seconds, seed):
    """`make fuzz`: against a server, until the time is over."""
    import schemathesis

    beside()
    setup()
    from benchmarks.rest import serving

    world = World()
    until = time.monotonic() + seconds
    with serving() as port:
        url = f"http://127.0.0.1:{port}"
        headers = {**world.headers("administrator"), "Accept": "application/json"}
        schema = schemathesis.openapi.from_url(f"{url}/api/schema/", headers=headers)
        fuzz = Fuzz(schema, world, seed=seed, call={"base_url": url})
        while time.monotonic() < until:
            for role in ROLES:
                fuzz.everything(role, examples=20, until=until)
            if time.monotonic() < until:
                fuzz.stateful(random.Random(fuzz.seed).choice(ROLES[:-1]), examples=50, steps=8)
            print(fuzz.summary(), flush=True)
            fuzz.seed += 1
    return fuzz


def main(arguments):
    """See the module."""
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("seconds", nargs="?", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--bounded", type=int, metavar="EXAMPLES", help="in process, so many examples of each operation")
    parser.add_argument("--control", action="store_true", help="a check of the checks")
    given = parser.parse_args(arguments)
    seed = given.seed if given.seed is not None else secrets.randbelow(2**31)
    print(f"seed {seed}", flush=True)
    if given.control:
        fuzz = control(seed)
    elif given.bounded:
        fuzz = bounded(given.bounded, seed)
    else:
        fuzz = for_hours(given.seconds, seed)
    print(fuzz.summary())
    return 1 if fuzz.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
