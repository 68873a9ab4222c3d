"""A broker in memory for an application's own unit tests: topics, groups and messages without ZooKeeper, mqadmin or a network.

    broker = Broker()
    broker.topic("order_topic")
    with broker.client() as client:
        place_order(client)
    assert broker.sent("order_topic")[0].json() == {"id": 1}

Time stands still but for `advance`: delayed messages, retries and lost leases come when a test says so.
"""

from mqadmin_sdk.testing.broker import Broker, DeadLetter

__all__ = ["Broker", "DeadLetter"]
