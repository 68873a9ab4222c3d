"""Prometheus metrics: what an operator alarms on, read from Postgres when it is asked for."""

from collections.abc import Iterator

from django.db import connection
from django.http import HttpRequest, HttpResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric

# name, help, label, statement (label, value); each is one cheap statement, none reads messages
GAUGES = [
    ("mqadmin_topics", "Topics by status", "state", "SELECT state, count(*) FROM topics_topic GROUP BY state"),
    ("mqadmin_consumer_groups", "Consumer groups by status", "state", "SELECT state, count(*) FROM consumers_consumergroup GROUP BY state"),
    (
        "mqadmin_publications_dirty",
        "Paths whose last generation is not in ZooKeeper yet",
        "",
        "SELECT '', count(*) FROM registry_publication WHERE published_generation < generation",
    ),
    (
        "mqadmin_publication_lag_seconds",
        "Age of the oldest change that is not in ZooKeeper yet",
        "",
        """SELECT '', coalesce(extract(epoch FROM now() - min(changed_at)), 0)
             FROM registry_publication WHERE published_generation < generation""",
    ),
    (
        "mqadmin_instances_online",
        "SDK instances online",
        "role",
        "SELECT role, count(*) FROM registry_instance WHERE online GROUP BY role",
    ),
    (
        "mqadmin_registrar_heartbeat_age_seconds",
        "Age of the newest heartbeat of a registrar",
        "",
        "SELECT '', extract(epoch FROM now() - max(beat_at)) FROM registry_registrarheartbeat",
    ),
    (
        "mqadmin_horizon_age_seconds",
        "Age of the message store's horizon: since the last tick, or of what an open transaction holds back",
        "",
        "SELECT '', greatest(extract(epoch FROM now() - h.at), (s.last_value - h.closed_id) >> 20) FROM mq_horizon h, mq_id_seq s",
    ),
]


class _FromPostgres:
    def collect(self) -> Iterator[Metric]:
        """Read every gauge; unknown is left out rather than shown as 0."""
        with connection.cursor() as cursor:
            for name, text, label, statement in GAUGES:
                gauge = GaugeMetricFamily(name, text, labels=[label] if label else [])
                cursor.execute(statement)
                for value_of_label, value in cursor.fetchall():
                    if value is not None:
                        gauge.add_metric([value_of_label] if label else [], float(value))
                yield gauge


def metrics(_request: HttpRequest) -> HttpResponse:
    """The exposition format of Prometheus; no names of topics or people are in it, so it needs no login."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_FromPostgres())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
