"""A topic with delayed messages is retired only when they may be cancelled: they would be delivered to nobody."""

from datetime import UTC, datetime, timedelta

import pytest
from django.urls import reverse

from clusters.services import ensure_builtin
from core.audit.models import AuditEntry
from core.errors import Problem
from messages import services as store
from messages.types import DelayedFilter, NewMessage
from registry.models import RegistrarHeartbeat
from topics import services

pytestmark = pytest.mark.django_db


@pytest.fixture
def topic(application, admin_person, second_person):
    applied = services.apply(
        actor=admin_person,
        name="order_topic",
        application=application,
        owner=admin_person,
        expected_rate=1,
        message_bytes=1,
        partitions=1,
        ordered=False,
        reason="orders",
    )
    RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")
    return services.approve(actor=second_person, topic=applied, cluster=ensure_builtin())


@pytest.fixture
def delayed(topic):
    due = datetime.now(UTC) + timedelta(hours=1)
    return [a.id for a in store.send(topic_id=topic.pk, messages=[NewMessage(b"x", deliver_at=due)] * 3)]


def page(name, *args):
    return reverse(f"admin:{name}", args=args)


def waiting(topic):
    return len(store.delayed_messages(only=DelayedFilter(topic_id=topic.pk)).items)


def test_it_is_refused_while_delayed_messages_wait_and_cancels_them_when_told_to(topic, delayed, admin_person):
    with pytest.raises(Problem) as refused:
        services.retire(actor=admin_person, topic=topic, reason="not needed")
    assert (refused.value.code, refused.value.status, refused.value.extra["delayed"]) == ("delayed_messages_wait", 409, 3)
    topic.refresh_from_db()
    assert (topic.state, waiting(topic)) == ("active", 3)
    services.retire(actor=admin_person, topic=topic, reason="not needed", cancel_delayed=True)
    assert waiting(topic) == 0
    entry = AuditEntry.objects.get(kind="topic", action="retire")
    assert (entry.after, entry.reason) == ({"cancelled_delayed_messages": 3}, "not needed")
    with pytest.raises(Problem) as gone:
        store.message(message_id=delayed[0])
    assert gone.value.code == "not_found"


def test_delayed_messages_of_other_topics_stay(topic, delayed, admin_person):
    other = topic.pk + 10**9
    store.send(topic_id=other, messages=[NewMessage(b"x", deliver_at=datetime.now(UTC) + timedelta(hours=1))])
    services.retire(actor=admin_person, topic=topic, reason="not needed", cancel_delayed=True)
    assert len(store.delayed_messages(only=DelayedFilter(topic_id=other)).items) == 1


def test_over_rest_it_is_said_and_confirmed(api2, topic, delayed):
    refused = api2("POST", "topics/order_topic/retirement", {"reason": "not needed"})
    assert (refused.status_code, refused.body["code"], refused.body["delayed"]) == (409, "delayed_messages_wait", 3)
    assert api2("POST", "topics/order_topic/retirement", {"reason": "x", "cancel_delayed": "perhaps"}).status_code == 400
    done = api2("POST", "topics/order_topic/retirement", {"reason": "not needed", "cancel_delayed": True})
    assert (done.status_code, done.body["state"]) == (200, "retired")
    assert waiting(topic) == 0


def test_the_form_says_how_many_wait_and_asks(client, second_person, topic, delayed):
    client.force_login(second_person)
    address, fields = page("topics_retire", "order_topic"), {"confirm_name": "order_topic", "reason": "not needed"}
    shown = client.get(address).content.decode()
    assert "3 delayed messages wait for their time" in shown
    assert 'name="cancel_delayed"' in shown
    refused = client.post(address, fields)
    assert "3 delayed messages of “order_topic” wait for their time." in refused.content.decode()
    assert client.post(address, {**fields, "cancel_delayed": "on"}).status_code == 302
    assert waiting(topic) == 0


def test_without_delayed_messages_the_form_does_not_ask(client, second_person, topic):
    client.force_login(second_person)
    assert "cancel_delayed" not in client.get(page("topics_retire", "order_topic")).content.decode()
    assert client.post(page("topics_retire", "order_topic"), {"confirm_name": "order_topic", "reason": "x"}).status_code == 302
    topic.refresh_from_db()
    assert topic.state == "retired"
