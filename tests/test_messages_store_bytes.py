"""The limit of bytes: of a whole pull, retries and all topics together, and of one step of the promoter; never less than one message."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from messages import services
from messages.types import NewMessage
from tests.store_world import new_group, new_id, pull, send, settle, sql

pytestmark = [pytest.mark.usefixtures("store"), pytest.mark.django_db(transaction=True)]
PULL = "SELECT count(*) FROM mq_pull(%s, 100, '60 s', 'w', true, 5000, %s) AS p WHERE (p).kind = 'M'"


def test_the_limit_is_of_all_topics_together():
    topics = [new_id(), new_id(), new_id()]
    group = new_group(*topics)
    for topic in topics:
        send(topic, "x" * 100, "y" * 100)
    services.tick()
    assert sql(PULL, group, 250) == 3
    assert sql(PULL, group, 1) == 1
    assert sql(PULL, group, 10_000) == 2


def test_retries_count_towards_the_limit():
    topic = new_id()
    group = new_group(topic)
    send(topic, "x" * 100, "y" * 100)
    settle(group, pull(group), "failed")
    send(topic, "z" * 100)
    services.tick()
    time.sleep(0.01)
    assert sql(PULL, group, 150) == 2
    assert sql(PULL, group, 150) == 1


def test_a_step_of_the_promoter_is_bounded_and_the_rest_follows():
    while services.promote():  # what other tests have left that is due
        pass
    topic = new_id()
    group = new_group(topic)
    due = datetime.now(UTC) + timedelta(milliseconds=300)
    services.send(topic_id=topic, messages=[NewMessage(b"x" * 100, deliver_at=due) for _ in range(5)])
    time.sleep(0.4)
    assert sql("SELECT mq_promote(2000, 250)") == 3
    assert services.promote() == 2
    assert len(pull(group).messages) == 5
