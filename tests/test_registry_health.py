"""How far behind publication is and what registrars see: overview, REST, metrics and readiness. No ZooKeeper takes part."""

from datetime import timedelta

import pytest
from django.utils import timezone
from registry_world import put_cluster, put_topic

from registry import health
from registry.models import Drift, Publication, RegistrarHeartbeat

pytestmark = pytest.mark.django_db


@pytest.fixture
def publications():
    """One published, one late by a minute and failing, one that waits for a person for an hour, with a later change of ours."""
    Publication.objects.update(published_generation=1)  # the built-in cluster's
    put_cluster()
    late, held = put_topic("late"), put_topic("held")
    now = timezone.now()
    Publication.objects.filter(path="/zms/cluster/kafka-a").update(published_generation=1)
    Publication.objects.filter(pk=late.pk).update(changed_at=now - timedelta(minutes=1), last_error="refused")
    Publication.objects.filter(pk=held.pk).update(changed_at=now - timedelta(hours=1), drifted_at=now, held_at=now)


@pytest.fixture
def registrars():
    """One that watches, one that lost ZooKeeper, one that is dead."""
    make = RegistrarHeartbeat.objects.create
    make(host="a", pid=1, zookeeper="connected", watch="live", session="abc")
    make(host="b", pid=2, zookeeper="suspended", watch="none")
    make(host="c", pid=3, zookeeper="connected", watch="live", beat_at=timezone.now() - timedelta(seconds=30))


def gauges(client, name):
    lines = client.get("/metrics").content.decode().splitlines()
    return {
        line.rpartition(" ")[0].removeprefix(name): float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith((f"{name} ", f"{name}{{"))
    }


def test_lag_is_that_of_the_oldest_change_that_a_registrar_has_to_write(publications):
    found = health.publication()
    assert (found.dirty, found.failing, found.drifted, found.held) == (1, 1, 0, 1)
    assert (found.oldest_path, 50 <= found.lag < 600) == ("/zms/topic/late", True)
    Publication.objects.filter(path="/zms/topic/late").update(published_generation=1, last_error="")
    found = health.publication()
    assert (found.dirty, found.lag, found.oldest_path, found.held) == (0, 0.0, "", 1)


def test_metrics_tell_lag_failures_what_waits_and_each_watch(client, publications, registrars):
    Drift.objects.create(path="/zms/topic/held", edit="changed", incident="x", outcome="waiting")
    assert 50 <= gauges(client, "mqadmin_publication_lag_seconds")[""] < 600
    assert gauges(client, "mqadmin_publications_failing") == {"": 1}
    assert gauges(client, "mqadmin_publications_held") == {"": 1}
    assert gauges(client, "mqadmin_registrars") == {'{watch="live"}': 1, '{watch="comparing"}': 0, '{watch="none"}': 1}
    assert gauges(client, "mqadmin_drift_unsettled") == {'{outcome="open"}': 0, '{outcome="waiting"}': 1, '{outcome="left"}': 0}


def test_the_overview_names_the_oldest_change_and_each_registrar(client, admin_person, publications, registrars):
    client.force_login(admin_person, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get("/admin/").content.decode()
    for words in ("/zms/topic/late", "1 failing", "1 wait for a person", "a:1", "b:2", "suspended", "c:3"):
        assert words in page, words


def test_the_overview_of_somebody_with_a_part_tells_nothing_of_the_rest(client, publications, registrars):
    from accounts.models import User
    from accounts.rolesync import group_of

    somebody = User.objects.create_user("dev", is_staff=True)
    somebody.groups.add(group_of("developer"))
    client.force_login(somebody, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get("/admin/").content.decode()
    assert "/zms/topic/late" not in page
    assert "a:1" not in page


def test_registrars_over_rest(api, api_without_rights, registrars):
    rows = {row["host"]: (row["alive"], row["watching"], row["zookeeper"]) for row in api("GET", "registrars").body["results"]}
    assert rows == {"a": (True, True, "connected"), "b": (True, False, "suspended"), "c": (False, False, "connected")}
    assert api_without_rights("GET", "registrars").status_code == 403


@pytest.mark.django_db(transaction=True)
def test_readiness_tells_the_lag_without_names_and_does_not_depend_on_it(client, publications, registrars):
    answer = client.get("/readyz").json()
    assert answer["publication"].pop("lag_seconds") >= 50
    assert answer["publication"] == {"dirty": 1, "failing": 1, "drifted": 0, "held": 1, "registrars": 2, "watching": 1}
    assert answer["parts"]["registrar"] == answer["parts"]["zookeeper"] == "ok"
    assert "late" not in str(answer)
