"""Prometheus metrics of a client; `pip install 'mqadmin-sdk[prometheus]'`.

    from mqadmin_sdk import metrics
    metrics.export(client)

They are read from what the client counts anyway when Prometheus asks: a message costs nothing more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from prometheus_client import REGISTRY
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
except ImportError as error:
    raise ImportError("pip install 'mqadmin-sdk[prometheus]'") from error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.registry import CollectorRegistry

    from mqadmin_sdk.client import Client
    from mqadmin_sdk.consuming.consumers import Consumers
    from mqadmin_sdk.producing import Producer

_OUTCOMES = ("succeeded", "failed", "later", "dead")
_WASTED = {  # by the name of the count: the reason as it is shown
    "expired": "expired",
    "lost": "lost",
    "thrown_away": "late",
    "refused": "refused",
    "given_up": "too_long",
}


def export(client: Client, registry: CollectorRegistry = REGISTRY) -> Collector:
    """Export what a client does; returns what `registry.unregister` takes."""
    found = Collector(client.consumers, client.producer)
    registry.register(found)
    return found


class Collector:
    """Counts of the groups that a client consumes (labels `group` and, of a stress test, `task`), and of the topics that it sends to."""

    def __init__(self, consumers: Consumers, producer: Producer) -> None:
        self._consumers, self._producer = consumers, producer

    def collect(self) -> Iterator[Any]:
        """Read them."""
        labels = ["group", "task"]
        received = CounterMetricFamily("mqadmin_consumer_received", "Messages that came into this process's hands.", labels=labels)
        handled = CounterMetricFamily("mqadmin_consumer_handled", "Messages by what handlers made of them.", labels=[*labels, "outcome"])
        busy = CounterMetricFamily("mqadmin_consumer_handler_seconds", "Seconds that handlers took.", labels=labels)
        returned = CounterMetricFamily("mqadmin_consumer_given_back", "Messages given back before they were begun.", labels=labels)
        wasted = CounterMetricFamily(
            "mqadmin_consumer_wasted",
            "Messages that others may get though they were here: expired or lost before they were begun; late, refused or too_long after.",
            labels=[*labels, "reason"],
        )
        in_hand = GaugeMetricFamily("mqadmin_consumer_in_hand", "Messages in hand, those in handlers included.", labels=labels)
        running = GaugeMetricFamily("mqadmin_consumer_running", "Handlers at work.", labels=labels)
        up = GaugeMetricFamily("mqadmin_consumer_up", "1 if the group is consumed, 0 if it is suspended, or pulling fails.", labels=labels)
        for one in self._consumers.all():
            core, of = one.consumer.core, [one.consumer.name, one.task]
            received.add_metric(of, core.counts["received"])
            for outcome in _OUTCOMES:
                handled.add_metric([*of, outcome], core.counts[outcome])
            busy.add_metric(of, core.seconds)
            returned.add_metric(of, core.counts["given_back"])
            for count, reason in _WASTED.items():
                wasted.add_metric([*of, reason], core.counts[count])
            in_hand.add_metric(of, core.held)
            running.add_metric(of, len(core.running))
            up.add_metric(of, one.consumer.state[0] == "running")
        yield from (received, handled, busy, returned, wasted, in_hand, running, up)
        leaks = CounterMetricFamily("mqadmin_shadow_leaks", "Messages that came to the wrong side of a stress test.", labels=["side"])
        for side in ("live", "shadow"):
            leaks.add_metric([side], self._consumers.shadowing.leaks.counts[side])
        yield leaks
        yield from self._sending()

    def _sending(self) -> Iterator[Any]:
        sent = CounterMetricFamily("mqadmin_producer_sent", "Messages by what became of them.", labels=["topic", "outcome"])
        retried = CounterMetricFamily("mqadmin_producer_retried", "Messages that were sent once more.", labels=["topic"])
        seconds = CounterMetricFamily("mqadmin_producer_seconds", "Seconds that sends took; a batch is one.", labels=["topic"])
        switched = CounterMetricFamily("mqadmin_producer_switched", "Changes to another cluster.", labels=["topic"])
        for topic in self._producer.all():
            sent.add_metric([topic.name, "sent"], topic.counts["sent"])
            sent.add_metric([topic.name, "failed"], topic.counts["failed"])
            retried.add_metric([topic.name], topic.counts["retried"])
            seconds.add_metric([topic.name], topic.seconds)
            switched.add_metric([topic.name], topic.counts["switched"])
        yield from (sent, retried, seconds, switched)
        yield GaugeMetricFamily("mqadmin_producer_buffered", "Messages that are not stored yet.", value=self._producer.buffered)
