"""The examples of the SDK's README run as they stand, on the broker for unit tests where they would need a network."""

import logging
import re
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, generate_latest

from mqadmin_sdk import Client, Message, metrics
from mqadmin_sdk.consuming.consumers import Subscribing
from mqadmin_sdk.consuming.feeds import Options
from mqadmin_sdk.testing import Broker

README = Path(__file__).resolve().parent.parent / "sdk" / "README.md"


def blocks(section):
    text = README.read_text("utf-8")
    found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, section
    return re.findall(r"^```python\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)


@pytest.fixture
def broker(monkeypatch):
    """Whatever an example calls Client is a client of this broker."""
    made = Broker()
    made.topic("order_topic")
    monkeypatch.setattr("mqadmin_sdk.Client", lambda **arguments: made.client(arguments["app"]))
    return made


def test_sending(broker):
    names = {}
    for block in blocks("Sending"):
        exec(compile(block, str(README), "exec"), names)
    names["client"].close()
    sent = broker.sent("order_topic")
    assert len(sent) == 7
    assert (sent[0].json(), sent[0].key, sent[0].tag) == ({"id": 1}, "order-1", "created")
    assert sent[-1].key == "order-4"


def run_section(section, names):
    for block in blocks(section):
        exec(compile(block, str(README), "exec"), names)


def test_receiving(broker, monkeypatch):
    broker.topic("order_topic")
    broker.group("order_bill_group", "order_topic", max_attempts=2)
    bills, is_open = [], []
    with broker.client("order-service") as client:
        monkeypatch.setattr(client, "run", client.start)  # a signal would have to end it
        names = {
            "client": client,
            "timedelta": timedelta,
            "ledger_is_open": lambda: is_open,
            "write_bill": lambda order, key: bills.append((order["id"], key)),
        }
        try:
            run_section("Receiving", names)
            client.send("order_topic", {"id": 1, "customer": 7}, key="order-1")
            client.send("order_topic", {"id": 2})
            broker.wait("order_bill_group")
            assert (bills, broker.waiting("order_bill_group")) == ([], 1)
            is_open.append(True)
            broker.advance(timedelta(minutes=5))
            broker.wait("order_bill_group")
            assert bills == [(1, "order-1")]
            assert [letter.error for letter in broker.dead("order_bill_group")] == ["no customer"]
            text = generate_latest().decode()
            assert 'mqadmin_consumer_handled_total{group="order_bill_group",outcome="succeeded",task=""} 1.0' in text
        finally:
            logging.getLogger().removeHandler(names["handler"])
            for collector in [one for one in REGISTRY._collector_to_names if isinstance(one, metrics.Collector)]:
                REGISTRY.unregister(collector)


def test_stress_tests(broker):
    for name in ("order_topic", "shadow_order_topic", "bill_topic", "shadow_bill_topic"):
        broker.topic(name)
    broker.group("order_bill_group", "order_topic")
    broker.group("shadow_order_bill_group", "shadow_order_topic")
    live = []
    with broker.client("order-service") as client:
        names = {"client": client, "handle": lambda message: live.append(message.json()), "Message": Message}
        run_section("Stress tests", names)
        broker.shadow("stress-1", "order_bill_group", "order_topic", app="order-service")
        client.start()
        broker.wait("shadow_order_bill_group")
        client.send("order_topic", {"id": 2})
        broker.wait("order_bill_group")
        assert live == [{"id": 2}]
        assert [one.json() for one in broker.sent("shadow_order_topic")] == [{"id": 1}]
        assert [(one.json(), one.shadow) for one in broker.sent("shadow_bill_topic")] == [({"rehearsal": True}, "stress-1")]
        assert not broker.sent("bill_topic")
        assert client.consumers.shadowing.leaks.total == 0


def test_every_option_of_subscribe_stands_in_its_table():
    text = README.read_text("utf-8")
    shown = dict(re.findall(r"^\| `(\w+)=(.+?)` \|", text, re.MULTILINE))
    assert set(shown) == set(Subscribing.__annotations__)
    defaults = {field.name: field.default for field in fields(Options)} | {"instance": None, "shadow": None, "moved": None}
    assert {name: eval(value) for name, value in shown.items()} == defaults


def test_unit_tests_of_an_application():
    [block] = blocks("Unit tests of your application")
    exec(compile(block, str(README), "exec"), {})


def test_every_variable_of_the_table_is_read(monkeypatch, tmp_path):
    text = README.read_text("utf-8")
    names = set(re.findall(r"`(MQADMIN_[A-Z_]+)`", text))
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    values = {
        "MQADMIN_ZOOKEEPER": "127.0.0.1:1",
        "MQADMIN_APP": "shop",
        "MQADMIN_URL": "http://a;weight=3, http://b",
        "MQADMIN_BALANCE": "hash",
        "MQADMIN_APP_KEY": "mqk_1",
        "MQADMIN_APP_SECRET_FILE": str(secret),
        "MQADMIN_LABELS": "zone=a,rack=2",
    }
    assert set(values) <= names
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with Client.from_env(app="other") as client:
        assert (client.app, client.labels) == ("other", {"zone": "a", "rack": "2"})
        assert (client.control.credential.key, client.control.credential.secret) == ("mqk_1", "hush")
        assert [(str(one.url), one.weight) for one in client.control.addresses._all] == [("http://a", 3.0), ("http://b", 1.0)]
    monkeypatch.delenv("MQADMIN_APP_KEY")
    with pytest.raises(ValueError, match="MQADMIN_APP_KEY"):
        Client.from_env()
