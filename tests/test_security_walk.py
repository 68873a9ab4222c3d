"""Every address, every method, every kind of person and credential, against the table of roles: nothing is readable or writable beyond it.

One seeded world; each request runs in a savepoint that is rolled back. A route that is not in `security_walk_rules` fails.
"""

import json
import re
import secrets
from time import time
from types import SimpleNamespace
from uuid import uuid4

import pytest
from conftest import token_for
from console_world import group, instance, make_people, registered, topic
from django.conf import settings
from django.db import connection, transaction
from django.template import Template
from django.test import Client
from django.test.utils import _TestState
from django.urls import URLPattern, get_resolver
from django.utils import timezone
from django.utils.translation import get_language
from security_walk_rules import RULES

from accounts import authentication, credentials, limits, roles, signing
from accounts.models import ApiToken, Application, User
from accounts.rolesync import group_of
from consumers import shadow as shadows
from core.approvals.models import Request
from core.scope import Reach
from messages import services as store
from messages.models import CheckBack, Reset
from messages.types import NewMessage
from mqadmin import shell
from registry import clients
from registry.models import Drift, Gate, Instance, Publication

UNSAFE = ("POST", "PUT", "PATCH", "DELETE")
SECRET = "walksecret"  # in the name of everything of the other team
#: Refusals that are rules of the thing itself, not of roles.
DOMAIN = {"four_eyes", "not_yours", "wider_than_own_token"}


def parsed_rules():
    rules = {}
    for line in RULES.strip().splitlines():
        name, _colon, rule = line.rpartition(": ")
        more = dict(part.split("=") for part in rule.split()) if "=" in rule else rule.strip()
        rules[name] = {**rules[name], **more} if name in rules else more
    return rules


RULE = parsed_rules()


def routes(patterns=None, prefix="", namespace=""):
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            yield (f"{namespace}:" if namespace else "") + (pattern.name or "-"), route
        else:
            yield from routes(pattern.url_patterns, route, pattern.namespace or namespace)


def test_every_address_is_in_the_table_and_every_row_exists():
    named = {name for name, _route in routes()}
    assert not named - set(RULE), "say in tests/security_walk_rules.py what they ask for"
    assert not set(RULE) - named


@pytest.fixture(scope="module")
def world(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), transaction.atomic():
        yield seeded()
        transaction.set_rollback(True)


def seeded():
    authentication._tokens.clear()
    authentication._keys.clear()
    people = make_people()
    made = SimpleNamespace(people=people, persons={}, tokens={})
    for key in (*roles.ROLES, "other developer"):
        somebody = User.objects.create_user(key.replace(" ", "_"), is_staff=True)
        somebody.groups.add(group_of(key.split()[-1]))
        made.persons[key] = somebody
    made.persons["nobody"] = people.nobody
    made.own = things(made, "walkown", made.persons["developer"])
    made.other = things(made, SECRET, made.persons["other developer"])
    made.key = credentials.make_key(actor=people.alice, application=made.own.application)
    made.other_key = credentials.make_key(actor=people.alice, application=made.other.application)
    for name, somebody in made.persons.items():
        made.tokens[name] = token_for(somebody)
    _token, made.tokens["reader"] = ApiToken.issue(
        user=made.persons["administrator"], name="r", expires_at=timezone.now() + timezone.timedelta(hours=1), scopes=["read"]
    )
    return made


def things(made, word, owner):
    """A team's things of every kind, all with the word in their names."""
    people, application = made.people, Application.objects.create(name=f"{word}-app", owner=owner)
    own_topic = topic(people, application, f"{word}_topic")
    own_group = group(people, application, f"{word}_group", [(own_topic.name, "*")])
    topic(people, application, f"{word}_pending", state="pending")
    shadow = shadows.create(actor=people.alice, application=application, task="t", group=own_group, topic=own_topic)
    online = instance(own_topic, number=secrets.randbelow(10**6) + 10, app=application.name)
    callback = CheckBack.objects.create(application=application, url="https://shop.example.com/check", secret="x" * 32)
    half = store.prepare_half(topic_id=own_topic.pk, message=NewMessage(body=word.encode(), key=f"{word}-half"))
    client = uuid4()
    clients.register(
        client=client, path=own_topic.zookeeper_path, role="producer", app=application.name, ip="", name=word, sdk="", pid=None,
        report=clients.Report(),
    )  # fmt: skip
    gate = Gate.objects.create(
        publication=Publication.objects.get(path=own_group.zookeeper_path),
        cluster="elsewhere",
        main_cluster="builtin",
        opened_by="alice",
        reason=word,
    )
    service, registration, worker = registered(f"com.{word}.Service", app=application.name, number=secrets.randbelow(10**6))
    [sent] = store.send(topic_id=own_topic.pk, messages=[NewMessage(body=word.encode(), key=f"{word}-key")])
    edit = Drift.objects.create(path=own_topic.zookeeper_path, edit="changed", incident=word, data=word.encode(), outcome="waiting")
    return SimpleNamespace(
        application=application, topic=own_topic, group=own_group, shadow=shadow, instance=online, message=sent.id,
        half=half.id, callback=callback, client=client, gate=gate, service=service, registration=registration, worker=worker,
        request=Request.objects.filter(target=f"{word}_pending").first(),
        reset=Reset.objects.create(group_id=own_group.pk, topic_id=own_topic.pk, kind="rewind", position_before=2, position=1, era=9,
                                   repeated=1, first_time=0, skipped=0, reason=word),
        publication=Publication.objects.get(path=own_topic.zookeeper_path), drift=edit, owner=owner,
        token=ApiToken.issue(user=owner, name=f"{word}-token", expires_at=timezone.now() + timezone.timedelta(hours=1))[0],
        key=credentials.make_key(actor=people.alice, application=application, name=f"{word}-key")[0],
    )  # fmt: skip


def arguments(name, route, team):
    """The values that the route's parameters get for a team's things."""
    things_of = {
        r"topic": team.topic.name, r"group|push|consumer|consumption|dead-letters|redrives|purges|pull|acks|next": team.group.name,
        r"cluster": "builtin", r"drift": "topics",
    }  # fmt: skip
    if "applications/" in route:
        named = team.application.name
    else:
        found = re.match(r"(?:api/v1/\^?|admin/)([a-z-]+)", route)
        part = found[1] if found else ""
        named = next((value for words, value in things_of.items() if re.match(words, part)), "builtin")
    number = {
        "shadow": team.shadow.pk, "publication": team.publication.pk, "drift": team.drift.pk,
        "instance": team.instance.pk, "token": team.token.pk,
        "request": team.request.pk if team.request else 1, "messages": team.message, "delayed": team.message,
        "half-messages/check-backs": team.callback.pk, "release": team.publication.releases.get().pk,
        "gates": team.gate.pk, "services": team.service.pk, "registrations": team.registration.pk, "worker-ids": team.worker.pk,
    }  # fmt: skip
    part = route.replace("api/v1/^", "").replace("admin/", "")
    pk = next((value for word, value in number.items() if part.startswith(word)), 10**9)
    object_id = pk
    if "accounts/application" in route:
        object_id = team.application.pk
    elif "accounts/user" in route:
        object_id = team.owner.pk
    elif "auth/group" in route:
        object_id = group_of(roles.OPERATOR).pk
    return {
        "name": named.replace("%", "%25"), "pk": pk, "number": pk, "message_id": team.message,
        "half_id": team.half, "group": team.group.name,
        "lease": "1", "reset": team.reset.pk,
        "key_id": team.key.key_id, "client": team.client,
        "object_id": object_id, "id": object_id if "accounts/user" in route else "00000000-0000-4000-8000-000000000000",
        "uid": "00000000-0000-4000-8000-000000000000", "ref": "0" * 32, "page": "topics_list", "resource": "topics",
        "content_type_id": 1, "app_label": "accounts", "url": "made-up/",
    }  # fmt: skip


def address(name, route, team):
    values = arguments(name, route, team)
    plain = re.sub(r"\(\?P<(\w+)>((?:[^()]|\((?:[^()])*\))*)\)", lambda m: str(values[m[1]]), route)
    plain = re.sub(r"<(?:\w+:)?(\w+)>", lambda m: str(values[m[1]]), plain)
    if "0-9a-f]{8}" in route or "<uuid" in route:
        plain = plain.replace("1000000000", "00000000-0000-4000-8000-000000000000")
    queries = {"messages": f"?topic={team.topic.name}", "reset-preview": f"?topic={team.topic.name}&to=earliest",
               "admin:registry_gate_add": f"?path={team.topic.zookeeper_path}"}  # fmt: skip
    query = queries.get(name, "")
    return "/" + plain.replace("^", "").replace("$", "").replace("\\", "") + query


BODIES = {"request-comments": '{"text": "x"}', "consumer-group-suspension": '{"reason": "x"}', "send": '{"body": "x"}',
          "half-prepare": '{"body": "x"}', "epochs": '{"producer": "p"}',
          "transactions": '{"application": "walkown-app", "producer": "p", "epoch": 1, "id": "t"}',
          "half-decision": '{"decision": "commit"}', "check-back": '{"url": "https://1.1.1.1/x"}',
          "shadow-task-start": '{"minutes": 5, "reason": "x"}', "application-keys": "{}",
          "acks": '{"acks": [{"lease": "1", "id": 1, "status": "succeeded"}]}',
          "clients": '{"role": "producer", "topic": "walkown_topic"}'}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def pages_drawn_as_in_production():
    """Without the test client's copies of every template's context, which nothing here looks at: they cost more than the page."""
    instrumented, Template._render = Template._render, _TestState.saved_data.template_render
    yield
    Template._render = instrumented


@pytest.fixture(autouse=True, scope="module")
def one_frame_for_all_pages_of_a_person():
    """The sidebar and its counts are the same on each page of somebody, since all is rolled back: made once, drawn on each."""
    make, made = shell._frame, {}

    def frame(request):
        known = request.user.pk, get_language()
        if known not in made:
            made[known] = make(request)
        return made[known]

    shell._frame = frame
    yield
    shell._frame = make


def ask(client, method, name, url, **headers):
    """One request in a savepoint, rolled back; no test depends on what another has done."""
    api = url.startswith("/api/")
    body = BODIES.get(name, "{}") if api else "reason=x&text=x&confirm_name=x"
    kind = "application/json" if api else "application/x-www-form-urlencoded"
    limits.reset()
    cookies, point = client.cookies.copy(), transaction.savepoint()
    connection.needs_rollback = False
    try:
        response = client.generic(method, url, body.encode() if method in UNSAFE else b"", content_type=kind, headers=headers)
        response.text_now = "" if response.streaming else response.content.decode("utf-8", "replace")
        return response
    finally:
        connection.needs_rollback = False
        transaction.savepoint_rollback(point)
        client.cookies = cookies  # logging out is one of the requests


def cases(world, team):
    for name, route in routes():
        rule = RULE[name]
        if name == "admin:-" or rule == "nobody":
            continue
        methods = rule if isinstance(rule, dict) else dict.fromkeys(("GET", "POST"), rule)
        for method, needs in methods.items():
            yield name, method, needs, address(name, route, team)


def code_of(response):
    return response.json().get("code", "") if not response.streaming and "json" in response.headers.get("Content-Type", "") else ""


def as_person(world, who):
    client = Client(raise_request_exception=False)
    client.force_login(world.persons[who])
    return client


def test_without_a_credential_there_is_nothing(world):
    client = Client(raise_request_exception=False)
    for name, method, needs, url in cases(world, world.own):
        response = ask(client, method, name, url)
        if needs == "public":
            assert response.status_code < 500 or name == "readyz", url
        elif url.startswith("/admin/"):
            assert response.status_code in {302, 405, 403, 404}, (method, url)
            if response.status_code == 302:
                assert response.headers["Location"].startswith("/admin/"), url
        elif name == "api-docs":  # a page for browsers: it leads to the login
            assert response.status_code == 405 or response.headers["Location"] == f"/admin/login/?next={url}", (method, url)
        else:
            assert response.status_code in {401, 403, 405}, (method, url, response.status_code)
        assert "walkown" not in response.text_now.replace(url, "").replace(url.split("?")[0], "") or response.status_code == 302, url


@pytest.mark.parametrize("who", [*roles.ROLES, "nobody"])
def test_a_person_gets_what_the_table_says(world, who):
    client, token = as_person(world, who), world.tokens[who]
    role = roles.ROLES.get(who)
    for name, method, needs, url in cases(world, world.own):
        if needs in {"public", "self", "any"}:
            continue
        reach = role.reach(needs) if role else Reach.NONE
        headers = {"Authorization": f"Token {token}"} if url.startswith("/api/") else {}
        response = ask(client, method, name, url, **headers)
        label = (who, method, url, response.status_code, code_of(response))
        assert response.status_code < 500 or response.status_code == 503, (label, response.text_now[:300])
        if reach is Reach.NONE:
            assert response.status_code in {403, 404, 405}, label
        else:
            assert response.status_code != 401, label
            assert response.status_code != 403 or code_of(response) in DOMAIN or not url.startswith("/api/") or "approvals" in needs, label
            if method == "GET" and not url.startswith("/api/") and "1000000000" not in url and "delete" not in name:
                assert response.status_code != 403, label
            if method == "GET" and "walkown" in url:  # what is within reach is there; 409: not in the state it is in
                assert response.status_code in {200, 302, 409}, label


def test_developers_of_another_team_find_nothing(world):
    client, token = as_person(world, "developer"), world.tokens["developer"]
    for name, method, needs, url in cases(world, world.other):
        if needs == "public":
            continue
        headers = {"Authorization": f"Token {token}"} if url.startswith("/api/") else {}
        response = ask(client, method, name, url, **headers)
        asked = url.split("?")[0]
        if (
            SECRET in asked
            or any(f"/{getattr(world.other, k).pk}" in asked for k in ("shadow", "publication", "instance", "service", "registration"))
            or str(world.other.message) in asked
        ):
            # PUT would make it: its empty body is refused as for a name that is free; a good one finds the name taken (below).
            allowed = {404, 403, 405} | ({400} if method == "PUT" else set())
            assert response.status_code in allowed, (method, url, response.status_code, response.text_now[:200])
        seen = response.text_now.replace(url, "").replace(asked, "")
        # Whatever the address itself says may be quoted back; a choice of topics to subscribe to names all.
        seen = (
            re.sub(rf"{SECRET}[_-](topic|group|app)\b", "", seen)
            if SECRET in asked or name in {"admin:consumers_apply", "admin:consumers_edit", "admin:consumers_ask_change", "messages"}
            else seen
        )
        assert SECRET not in seen, (method, url, seen[max(0, seen.find(SECRET) - 200) : seen.find(SECRET) + 80])


def test_a_name_that_another_team_has_taken_tells_nothing_but_that(world):
    """Names are the cluster's: that one is taken cannot be hidden from who wants it. Nothing of the thing shows, nothing changes."""
    client = Client(raise_request_exception=False)
    headers = {"Authorization": f"Token {world.tokens['developer']}"}
    common = {"application": world.own.application.name, "reason": "x"}
    for collection, thing, fields in (
        ("topics", world.other.topic, {**common, "expected_rate": 1, "message_bytes": 10}),
        ("consumer-groups", world.other.group, {**common, "subscriptions": [{"topic": world.own.topic.name, "tags": "*"}]}),
    ):
        before = list(type(thing).objects.filter(pk=thing.pk).values())
        one = f"{collection}/{thing.name}"
        asked = [
            ("PUT", one, fields, {}),
            ("POST", collection, {**fields, "name": thing.name}, {}),
            ("PUT", f"{one}?dry_run=true", fields, {}),
            ("PUT", one, fields, {"If-None-Match": "*"}),
            ("PUT", one, fields, {"If-Match": '"1"'}),
            ("PUT", one, fields, {"If-Match": "*"}),
        ]
        for method, path, body, condition in asked:
            point = transaction.savepoint()
            answer = client.generic(
                method, f"/api/v1/{path}", json.dumps(body).encode(), content_type="application/json", headers={**headers, **condition}
            )
            transaction.savepoint_rollback(point)
            wanted = (412, "stale") if "If-Match" in condition else (409, "duplicate_name")
            assert (answer.status_code, code_of(answer)) == wanted, (method, path, condition, answer.content)
            assert "ETag" not in answer.headers
            assert SECRET not in answer.content.decode().replace(thing.name, ""), answer.content
            assert str(world.other.owner) not in answer.content.decode()
        assert list(type(thing).objects.filter(pk=thing.pk).values()) == before


@pytest.mark.parametrize("who", ["auditor", "reader"])
def test_who_only_reads_writes_nothing(world, who):
    person = None if who == "reader" else as_person(world, who)
    for name, method, needs, url in cases(world, world.own):
        api = url.startswith("/api/")
        if method not in UNSAFE or needs in {"public", "self", "any"} or (person is None and not api):
            continue
        if who == "auditor" and roles.TABLE.get(needs) and roles.TABLE[needs].auditor is Reach.OWN:
            continue  # their own tokens
        headers = {"Authorization": f"Token {world.tokens[who]}"} if api else {}
        response = ask(person or Client(raise_request_exception=False), method, name, url, **headers)
        assert response.status_code >= 400 or (not api and response.status_code == 200), (who, method, url, response.status_code)


@pytest.mark.parametrize("scope", roles.SCOPES)
def test_a_token_does_what_its_scopes_say_and_no_more(world, scope):
    """Of an administrator, who may everything: only the scope decides."""
    ends = timezone.now() + timezone.timedelta(hours=1)
    _token, secret = ApiToken.issue(user=world.persons["administrator"], name="s", expires_at=ends, scopes=[scope])
    for name, method, needs, url in cases(world, world.own):
        if not url.startswith("/api/v1/") or needs in {"public", "self", "any"}:
            continue
        response = ask(Client(raise_request_exception=False), method, name, url, Authorization=f"Token {secret}")
        label = (method, url, response.status_code, code_of(response), roles.scope_of(needs))
        if name.startswith("request-") and method != "GET":  # who reads a request needs more to do something with it
            assert response.status_code >= 400, label
        elif scope != roles.scope_of(needs):
            assert response.status_code in {403, 405}, label
        elif method == "GET":
            assert response.status_code in {200, 404}, label
        else:
            assert response.status_code not in {401, 403} or code_of(response) in DOMAIN, label


@pytest.mark.parametrize("whose", ["own", "other"])
def test_a_key_reaches_its_own_application_only(world, whose):
    key, secret = world.key if whose == "own" else world.other_key
    fine = set()
    for name, method, _needs, url in cases(world, world.own):
        if not url.startswith("/api/v1/"):
            continue
        stamp, nonce, body = str(int(time())), secrets.token_hex(10), (BODIES.get(name, "{}") if method in UNSAFE else "").encode()
        signature = signing.sign(secret, method=method, path=url, timestamp=stamp, nonce=nonce, body=body)
        header = f"App key={key.key_id}, timestamp={stamp}, nonce={nonce}, signature={signature}"
        response = ask(Client(raise_request_exception=False), method, name, url, Authorization=header)
        assert response.status_code != 401, (method, url, response.text_now)
        if response.status_code not in {403, 404, 405}:
            fine.add(name)
        if whose == "other":
            assert "walkown" not in response.text_now.replace(url, "").replace("walkown_topic", "").replace("walkown_group", "").replace(
                "walkown-app", ""
            ), url
    shared = {"me", "topic-list", "consumer-group-list", "manifest", "bulk"}
    data = {"send", "pull", "acks", "next", "extension", "departure", "half-prepare", "half-open", "half-commit", "half-rollback"}
    data |= {"epochs", "transactions", "push", "clients", "client", "client-heartbeat"}
    allowed = (
        data
        | {"topic-detail", "topic-applied", "topic-retention", "consumer-group-detail", "consumer-group-applied"}
        | {"consumption", "broadcast-instances", "workers"}
        if whose == "own"
        else set()
    )
    assert fine <= shared | allowed
    assert fine >= allowed


def test_the_roles_in_the_documentation_are_those_of_the_table():
    documented = (settings.BASE_DIR / "docs" / "security.md").read_text()
    for name, row in roles.TABLE.items():
        assert f"| `{name}` | {row.operator} | {row.developer} | {row.auditor} | `{row.scope}` |" in documented, name


def test_no_instance_is_of_a_stranger(world):
    assert Instance.objects.restrict(world.persons["developer"]).count() == 2  # one from ZooKeeper, one over REST
