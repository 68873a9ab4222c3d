"""Clients without ZooKeeper over REST: register, heartbeat, eviction, goodbye; beside those whose nodes stand in ZooKeeper."""

import json
import secrets
from datetime import timedelta
from time import time
from uuid import UUID, uuid4

import pytest
from conftest import Api, token_for
from console_world import instance, make_world, topic
from django.test import Client
from django.utils import timezone

from accounts import credentials, signing
from accounts.models import ApiToken, Application, User
from consumers import services as consumers
from messages.api import lookup
from registry import clients, tasks
from registry.models import Instance, Publication, RegistrarHeartbeat

PRODUCER = {"role": "producer", "topic": "order_topic", "name": "pod-1", "sdk": "go 1.2", "pid": 4711}


@pytest.fixture
def world(db):
    lookup._groups.clear()
    return make_world()


@pytest.fixture
def api(world):
    return Api(Client(), token_for(world.people.alice))


def register(api, **fields):
    answer = api("POST", "clients", {**PRODUCER, **fields})
    assert answer.status_code == 201, answer.body
    return answer.body


def refused(answer, status, code):
    assert (answer.status_code, answer.body["code"]) == (status, code), answer.body
    return answer.body


def silence(client, seconds):
    Instance.objects.filter(znode=clients.znode_of(client)).update(beat_at=timezone.now() - timedelta(seconds=seconds))


def applied_at(path):
    row = Publication.objects.with_applied_counts().get(path=path)
    return row.online_count, row.applied_count, row.outdated_count, row.unknown_count


def test_a_client_stands_among_the_instances_with_what_it_runs(api, world):
    path = world.order.zookeeper_path
    before = applied_at(path)
    made = register(api)
    assert (made["heartbeat_seconds"], made["evict_after_seconds"], made["generation"], made["suspended"]) == (5, 120, 1, False)
    assert made["configuration"]["clusterName"] == "builtin"
    assert made["clusters"]["builtin"]["brokerType"] == "builtin"
    assert applied_at(path) == (before[0] + 1, before[1], before[2], before[3] + 1)  # nobody knows yet what it runs
    beat = api("POST", f"clients/{made['id']}/heartbeat", {"generation": made["generation"], "state": "running"})
    assert beat.body == {"id": made["id"], "generation": 1, "configuration": None, "clusters": None, "suspended": False}
    assert applied_at(path) == (before[0] + 1, before[1] + 1, before[2], before[3])
    [row] = api("GET", "instances?source=rest").body["results"]
    assert (row["path"], row["node"], row["app"], row["role"], row["sdk"], row["pid"], row["applied"], row["source"]) == (
        path, "pod-1", "order-service", "producer", "go 1.2", 4711, "applied", "rest",
    )  # fmt: skip
    assert row["ip"] == "127.0.0.1"
    assert {row["source"] for row in api("GET", "instances?source=zookeeper").body["results"]} == {"zookeeper"}


def test_the_console_shows_it_where_it_shows_the_others(api, world):
    made = register(api, role="consumer", topic=None, group="bill_group", name="pod-of-billing")
    browser = Client()
    browser.force_login(world.people.alice)
    for page in ("instances/?source=rest", "groups/bill_group/instances/"):
        assert "pod-of-billing, registered over REST" in browser.get(f"/admin/{page}").content.decode(), page
    assert "registered over REST" not in browser.get("/admin/instances/?source=zookeeper").content.decode()
    silence(made["id"], 121)
    clients.evict()
    assert "evicted, last heartbeat" in browser.get("/admin/groups/bill_group/instances/").content.decode()


def test_a_heartbeat_tells_of_a_new_configuration_and_of_a_suspension(api, world):
    made = register(api, role="consumer", topic=None, group="bill_group", generation=1)
    assert made["configuration"] is None  # it runs it already
    assert not made["suspended"]
    consumers.suspend(actor=world.people.alice, group=world.bill, reason="billing is down")
    beat = api("POST", f"clients/{made['id']}/heartbeat").body
    assert (beat["generation"], beat["suspended"], beat["configuration"]["suspend"]) == (2, True, "true")
    assert json.loads(beat["configuration"]["mqadmin.subscriptions"]) == {"order_topic": "created || paid", "paid%topic": "*"}
    assert beat["configuration"]["mqadmin.drainClusters"] == "kfk-a"
    assert beat["clusters"].keys() == {"builtin", "kfk-a"}  # what it is drained of, too
    failed = api("POST", f"clients/{made['id']}/heartbeat", {"generation": 1, "state": "failed", "error": "no route"}).body
    assert failed["configuration"] is not None
    row = Instance.objects.get(znode=f"client:{made['id']}")
    assert (row.state, row.error, row.applied_generation) == ("failed", "no route", 1)
    api("POST", f"clients/{made['id']}/heartbeat", {"generation": 2, "state": "running", "error": ""})
    row.refresh_from_db()
    assert (row.state, row.error, row.applied_generation) == ("running", "", 2)


def test_registering_again_under_the_same_id_is_the_same_client(api):
    chosen = str(uuid4())
    register(api, id=chosen)
    again = api("POST", "clients", {**PRODUCER, "id": chosen.upper(), "sdk": "go 1.3"})
    assert (again.status_code, again.body["id"]) == (200, chosen)
    assert list(Instance.objects.filter(znode__startswith="client:").values_list("sdk", flat=True)) == ["go 1.3"]
    refused(api("POST", "clients", {"role": "consumer", "group": "bill_group", "id": chosen}), 409, "client_id_taken")
    assert Instance.objects.get(znode=f"client:{chosen}").role == "producer"


def test_who_is_silent_is_evicted_and_may_come_back(api, world):
    instance(world.order, number=77)  # ZooKeeper's: its session tells, not its heartbeats
    silent, alive = register(api), register(api)
    silence(silent["id"], 121)
    silence(alive["id"], 119)
    first_seen = Instance.objects.get(znode=f"client:{silent['id']}").first_seen
    others = Instance.objects.online().exclude(znode=f"client:{silent['id']}").count()
    assert tasks.evict_clients() == 1
    assert clients.evict() == 0
    assert Instance.objects.online().count() == others
    row = Instance.objects.get(znode=f"client:{silent['id']}")
    assert (row.online, row.state, row.offline_at is not None) == (False, "evicted", True)
    problem = refused(api("POST", f"clients/{silent['id']}/heartbeat"), 410, "client_evicted")
    assert "Register again" in problem["hint"]
    assert not Instance.objects.get(pk=row.pk).online
    back = api("POST", "clients", {**PRODUCER, "id": silent["id"]})
    assert back.status_code == 200
    assert api("POST", f"clients/{silent['id']}/heartbeat").status_code == 200
    row.refresh_from_db()
    assert (row.online, row.offline_at, row.first_seen) == (True, None, first_seen)


def test_goodbye_may_be_said_twice_and_unknown_ones_have_to_register(api):
    made = register(api)
    for _time in range(2):
        assert api("DELETE", f"clients/{made['id']}").status_code == 204
    assert Instance.objects.get(znode=f"client:{made['id']}").state == "left"
    refused(api("POST", f"clients/{made['id']}/heartbeat"), 410, "client_evicted")
    for method, path in (("POST", f"clients/{uuid4()}/heartbeat"), ("DELETE", f"clients/{uuid4()}")):
        assert "Register" in refused(api(method, path), 404, "not_found")["hint"]


def test_a_group_is_not_retired_while_a_client_is_there(api, world):
    made = register(api, role="consumer", topic=None, group="bill_group", name="pod-of-billing")
    world.bill.shadow_tasks.update(enabled=False)
    RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")
    bob = Api(Client(), token_for(world.people.bob))
    assert "pod-of-billing" in json.dumps(refused(bob("POST", "consumer-groups/bill_group/retirement", {"reason": "x"}), 409, "in_use"))
    api("DELETE", f"clients/{made['id']}")
    assert bob("POST", "consumer-groups/bill_group/retirement", {"reason": "x"}).status_code == 200
    refused(api("POST", f"clients/{made['id']}/heartbeat"), 409, "group_not_active")
    assert api("DELETE", f"clients/{made['id']}").status_code == 204


class Signing:
    """Asks with the key of an application."""

    def __init__(self, key, secret):
        self.key, self.secret, self.client = key, secret, Client()

    def __call__(self, method, path, body=None):
        raw, url = (json.dumps(body).encode() if body is not None else b""), f"/api/v1/{path}"
        stamp, nonce = str(int(time())), secrets.token_hex(10)
        signature = signing.sign(self.secret, method=method, path=url, timestamp=stamp, nonce=nonce, body=raw)
        header = f"App key={self.key.key_id}, timestamp={stamp}, nonce={nonce}, signature={signature}"
        answer = self.client.generic(method, url, raw, content_type="application/json", headers={"Authorization": header})
        answer.body = answer.json() if answer.content else None
        return answer


def test_a_key_registers_for_what_is_its_applications_and_nothing_else(world):
    other = Application.objects.create(name="other-service", owner=world.people.bob)
    topic(world.people, other, "other_topic")
    own = Signing(*credentials.make_key(actor=world.people.alice, application=world.application))
    stranger = Signing(*credentials.make_key(actor=world.people.alice, application=other))
    made = own("POST", "clients", PRODUCER)
    assert made.status_code == 201, made.body
    consumer = own("POST", "clients", {"role": "consumer", "group": "bill_group"})
    assert consumer.status_code == 201, consumer.body
    assert own("POST", f"clients/{made.body['id']}/heartbeat", {"generation": 1}).status_code == 200
    refused(own("POST", "clients", {**PRODUCER, "topic": "other_topic"}), 404, "not_found")
    refused(stranger("POST", "clients", PRODUCER), 404, "not_found")
    told = refused(stranger("POST", f"clients/{made.body['id']}/heartbeat"), 404, "not_found")
    assert "order_topic" not in json.dumps(told)
    refused(stranger("DELETE", f"clients/{consumer.body['id']}"), 404, "not_found")
    assert Instance.objects.online().filter(znode__startswith="client:").count() == 2


@pytest.mark.parametrize(("scope", "may", "may_not"), [("produce", "producer", "consumer"), ("consume", "consumer", "producer")])
def test_the_scope_of_a_token_decides_about_the_role(world, scope, may, may_not):
    ends = timezone.now() + timedelta(hours=1)
    api = Api(Client(), ApiToken.issue(user=world.people.alice, name="s", expires_at=ends, scopes=[scope])[1])
    bodies = {"producer": PRODUCER, "consumer": {"role": "consumer", "group": "bill_group"}}
    assert api("POST", "clients", bodies[may]).status_code == 201
    refused(api("POST", "clients", bodies[may_not]), 403, "forbidden")
    made = Api(Client(), token_for(world.people.alice))("POST", "clients", bodies[may_not]).body["id"]
    refused(api("POST", f"clients/{made}/heartbeat"), 403, "forbidden")
    refused(api("DELETE", f"clients/{made}"), 403, "forbidden")


def test_who_may_neither_send_nor_consume_learns_nothing(world, api):
    made = register(api)
    nobody = Api(Client(), token_for(User.objects.get(username="reader")))
    for method, path in (("POST", "clients"), ("POST", f"clients/{made['id']}/heartbeat"), ("DELETE", f"clients/{uuid4()}")):
        refused(nobody(method, path, {} if method == "POST" else None), 403, "forbidden")


@pytest.mark.parametrize(
    ("fields", "status", "code", "pointer"),
    [
        ({"role": None}, 400, "invalid", "/role"),
        ({"role": "shadow"}, 400, "invalid", "/role"),
        ({"topic": None}, 400, "invalid", "/topic"),
        ({"group": "bill_group"}, 400, "invalid", "/group"),
        ({"topic": "a\x00b"}, 404, "not_found", None),
        ({"topic": "no_such_topic"}, 404, "not_found", None),
        ({"topic": "pending_topic"}, 409, "topic_not_active", None),
        ({"id": "seven"}, 400, "invalid", "/id"),
        ({"pid": -1}, 400, "invalid", "/pid"),
        ({"pid": True}, 400, "invalid", "/pid"),
        ({"generation": 2**62}, 400, "invalid", "/generation"),
        ({"name": "x" * 256}, 400, "invalid", "/name"),
        ({"state": "x" * 33}, 400, "invalid", "/state"),
        ({"nonsense": 1}, 400, "unknown_field", "/nonsense"),
    ],
)
def test_bad_input_registers_nobody(api, fields, status, code, pointer):
    problem = refused(api("POST", "clients", {**PRODUCER, **fields}), status, code)
    assert [error["pointer"] for error in problem.get("errors", [])] == ([pointer] if pointer else [])
    assert not Instance.objects.filter(znode__startswith="client:").exists()


def test_signs_that_postgres_does_not_store_are_left_out(api):
    made = register(api, name="a\x00b", sdk="\x00")
    row = Instance.objects.get(znode=f"client:{UUID(made['id'])}")
    assert (row.node, row.sdk) == ("ab", "")


def test_the_schema_knows_that_a_client_may_be_gone(db):
    from api_world import the_schema

    answers = the_schema()["paths"]["/api/v1/clients/{client}/heartbeat"]["post"]["responses"]
    assert answers["410"]["content"]["application/problem+json"]["schema"]["$ref"].endswith("/Problem")


def test_other_methods_are_refused_in_words(api):
    refused(api("GET", "clients"), 405, "method_not_allowed")
    refused(api("GET", f"clients/{uuid4()}"), 405, "method_not_allowed")
