"""Prometheus metrics: what an operator alarms on, read from Postgres when it is asked for."""

from collections.abc import Iterator

from django.db import connection
from django.http import HttpRequest, HttpResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric

from registry import health

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
        "mqadmin_registrars",
        "Registrars alive, by their watch on ZooKeeper: live, comparing, none",
        "watch",
        """SELECT w.watch, count(r.id) FROM unnest(ARRAY['live', 'comparing', 'none']) AS w(watch) LEFT JOIN registry_registrarheartbeat r
               ON r.beat_at > now() - interval '6 seconds'
              AND CASE WHEN r.zookeeper = 'connected' AND r.watch <> '' THEN r.watch ELSE 'none' END = w.watch
            GROUP BY w.watch""",
    ),
    (
        "mqadmin_drift_unsettled",
        "Edits by others that are not settled, by outcome: open (being repaired), waiting (for a person), left (unknown nodes)",
        "outcome",
        """SELECT o.outcome, count(d.id) FROM unnest(ARRAY['open', 'waiting', 'left']) AS o(outcome) LEFT JOIN registry_drift d
               ON d.settled_at IS NULL AND d.outcome = o.outcome GROUP BY o.outcome""",
    ),
    (
        "mqadmin_instances_online",
        "SDK instances online; none of them while no registrar watches ZooKeeper, since nobody knows then",
        "role",
        """SELECT o.role, count(i.id) FROM unnest(ARRAY['producer', 'consumer', 'shadow']) AS o(role)
             LEFT JOIN registry_instance i ON i.online AND i.role = o.role
            WHERE EXISTS (SELECT FROM registry_registrarheartbeat r
                           WHERE r.beat_at > now() - interval '6 seconds' AND r.zookeeper = 'connected' AND r.watch = 'live')
            GROUP BY o.role""",
    ),
    (
        "mqadmin_registrations_online",
        "Registrations in service registries, by kind",
        "kind",
        "SELECT kind, count(*) FROM registry_registration WHERE online GROUP BY kind",
    ),
    (
        "mqadmin_services_wanted",
        "Services of service registries that are used and that nobody provides",
        "",
        "SELECT '', count(*) FROM registry_service WHERE providers = 0 AND consumers > 0",
    ),
    (
        "mqadmin_services_unrecorded",
        "Services of a service registry, by its root, that are not recorded, since there is no room for more; 0 where nobody is refused",
        "root",
        """SELECT u.key, max(u.value::bigint) FROM registry_registrarheartbeat r CROSS JOIN LATERAL jsonb_each_text(r.unrecorded) AS u
            WHERE r.beat_at > now() - interval '6 seconds' GROUP BY u.key""",
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
        found = health.publication()
        for name, text, value in (
            ("mqadmin_publication_lag_seconds", "Age of the oldest change that a registrar has to write to ZooKeeper", found.lag),
            ("mqadmin_publications_failing", "Paths that were tried and could not be written", found.failing),
            ("mqadmin_publications_drifted", "Paths whose node differs and is being repaired", found.drifted),
            ("mqadmin_publications_held", "Paths at which an edit by others waits for a person", found.held),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))


def metrics(_request: HttpRequest) -> HttpResponse:
    """The exposition format of Prometheus; no names of topics or people are in it, so it needs no login."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_FromPostgres())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
