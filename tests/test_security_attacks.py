"""Ways around the roles that were tried against a running server and found open once: each stays shut."""

import json
from datetime import timedelta

import pytest
from conftest import Api
from console_world import group, make_people, topic
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from operations_world import run

from accounts import authentication
from accounts.models import ApiToken, Application
from core import bulk
from core.approvals.models import Request
from core.operations import services as operations
from core.operations.models import Operation
from messages import services as store
from messages.api import data_plane
from messages.types import NewMessage

pytestmark = pytest.mark.django_db


@pytest.fixture
def people():
    authentication.forget_all()
    return make_people()


@pytest.fixture
def request_of_alice(people):
    application = Application.objects.create(name="shop", owner=people.alice)
    topic(people, application, "wanted_topic", state="pending")
    return Request.objects.get(target="wanted_topic")


def scoped(person, *scopes):
    _token, secret = ApiToken.issue(user=person, name="t", expires_at=timezone.now() + timedelta(hours=1), scopes=list(scopes))
    return Api(Client(), secret)


def decline(api, request, more):
    items = [{"name": str(request.pk)}, *({"name": f"no{i}"} for i in range(more))]
    return api("POST", "bulk/requests", {"action": "decline", "items": items, "values": {"reason": "no"}})


def test_an_operation_may_no_more_than_the_token_that_started_it(people, request_of_alice):
    """Its worker has no token, and knew only the person: with a token to read, all that person's powers were to be had."""
    reader = scoped(people.bob, "read")
    now = decline(reader, request_of_alice, 0)
    assert [row["status"] for row in now.body["results"]] == [403]
    assert decline(reader, request_of_alice, bulk.AT_ONCE).status_code == 202
    run(Operation.objects.get())
    assert Operation.objects.get().items.get(key=str(request_of_alice.pk)).code == "forbidden"
    request_of_alice.refresh_from_db()
    assert request_of_alice.state == "pending"
    assert decline(scoped(people.bob, "read", "approve"), request_of_alice, bulk.AT_ONCE).status_code == 202
    run(Operation.objects.order_by("pk").last())
    request_of_alice.refresh_from_db()
    assert (request_of_alice.state, request_of_alice.decided_by) == ("declined", people.bob)


def test_an_operation_that_a_token_sets_going_again_may_no_more_than_that_token(people, request_of_alice):
    items = [operations.NewItem(str(request_of_alice.pk)), operations.NewItem("none")]
    started = operations.start(actor=people.alice, kind="requests.decline", title="t", items=items, params={"values": {"reason": "no"}})
    run(started)  # one's own request
    assert (Operation.objects.get().failed, Operation.objects.get().scopes) == (2, None)
    Request.objects.update(requested_by=people.bob)
    assert scoped(people.alice, "read", "write")("POST", f"operations/{started.uid}/retries", {}).status_code in {200, 202}
    assert Operation.objects.get().scopes == ["read", "write"]
    run(Operation.objects.get())
    assert Operation.objects.get().items.get(key=str(request_of_alice.pk)).code == "forbidden"
    assert Request.objects.get(pk=request_of_alice.pk).state == "pending"


def test_many_requests_are_decided_in_the_console_but_not_ones_own(people, request_of_alice):
    answers = {}
    for name in ("alice", "bob"):
        client = Client()
        client.force_login(getattr(people, name))
        url = reverse("admin:bulk", args=["requests"])
        assert client.get(url).headers["Location"] == reverse("admin:requests")
        shown = client.post(url, {"action": "decline", "names": [str(request_of_alice.pk)]})
        assert shown.status_code == 200
        answers[name] = client.post(url, {**dict(shown.context["kept"]), "confirm": "1", "reason": "no"})
        assert answers[name].status_code == 302
        request_of_alice.refresh_from_db()
        assert request_of_alice.state == ("pending" if name == "alice" else "declined")


def test_what_has_waited_while_its_credential_was_revoked_gets_nothing(people, monkeypatch):
    application = Application.objects.create(name="shop", owner=people.alice)
    orders = topic(people, application, "orders")
    bills = group(people, application, "bills", [("orders", "*")])
    api = scoped(people.alice, "consume")
    monkeypatch.setattr(data_plane, "CACHE_SECONDS", 0.0)

    def revoked_meanwhile(_group_id, _seconds):
        ApiToken.objects.all().delete()
        store.send(topic_id=orders.pk, messages=[NewMessage(body=b"x")])
        return True

    monkeypatch.setattr(data_plane.waiting, "wait", revoked_meanwhile)
    answer = api("POST", f"consumer-groups/{bills.name}/pull", {"wait_ms": 5000})
    assert answer.status_code == 401, json.dumps(answer.body)
