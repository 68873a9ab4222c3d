"""Shadow groups: stopped together, ended in time also without Celery, and who runs them now."""

import json
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone
from registry_world import committed, published, wait_for, world  # noqa: F401
from test_registry_convergence import put
from test_registry_instances import report

from accounts.models import Application, User
from clusters import services as clusters
from consumers import services as groups
from consumers import shadow
from consumers.models import ShadowTask
from core.audit.models import AuditEntry
from registry.models import Instance, Publication, Release
from topics import services as topics


def start_world():
    """Three shadow groups of two applications in two stress tests, all on."""
    alice, bob = (User.objects.create_superuser(name, password="correct horse battery") for name in ("shadow_alice", "shadow_bob"))
    cluster = clusters.create(actor=alice, name="shadow-kafka", kind="kafka", address="10.0.0.1:9092")
    made = []
    for app, task in (("orders", "stress-1"), ("orders", "stress-2"), ("bills", "stress-1")):
        application = Application.objects.get_or_create(name=app, defaults={"owner": alice})[0]
        name = f"{app}_{task}".replace("-", "_")
        fields = {"owner": alice, "application": application, "reason": "x"}
        topic = topics.apply(
            actor=alice, name=f"{name}_topic", expected_rate=1, message_bytes=1, partitions=1, ordered=False, **fields
        )  # fmt: skip
        topic = topics.approve(actor=bob, topic=topic, cluster=cluster)
        limits = {"consume_from": "earliest", "max_attempts": 3, "backoff_ms": 1, "backoff_max_ms": 1}
        group = groups.apply(actor=alice, name=f"{name}_group", subscriptions=[(topic.name, "*")], **fields, **limits)
        group = groups.approve(actor=bob, group=group)
        one = shadow.create(actor=alice, application=application, task=task, group=group, topic=topic)
        made.append(shadow.start(actor=alice, shadow=one, minutes=30, reason="rehearsal"))
    return alice, made


def on():
    return sorted(str(one) for one in ShadowTask.objects.filter(enabled=True).select_related("application", "group"))


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("which", "left"),
    [
        ({}, []),
        ({"application": "orders"}, ["bills/stress-1/bills_stress_1_group"]),
        ({"task": "stress-1"}, ["orders/stress-2/orders_stress_2_group"]),
        ({"application": "orders", "task": "stress-1"}, ["bills/stress-1/bills_stress_1_group", "orders/stress-2/orders_stress_2_group"]),
    ],
    ids=["all", "of an application", "of a test", "of both"],
)
def test_all_are_stopped_at_once_or_those_of_an_application_or_a_test(api, which, left):
    start_world()
    assert api("POST", "shadow-tasks/stop-all", which).status_code == 400  # no reason
    answer = api("POST", "shadow-tasks/stop-all", {"reason": "the real one suffers", **which})
    assert answer.status_code == 200, answer.body
    assert (answer.body["stopped"], on()) == (3 - len(left), left)
    assert len(answer.body["shadow_tasks"]) == answer.body["stopped"]
    assert AuditEntry.objects.filter(action="switch off", reason="the real one suffers").count() == answer.body["stopped"]
    changes = set(Release.objects.filter(message="the real one suffers").values_list("change", flat=True))
    assert len(changes) == 1  # one change
    assert api("POST", "shadow-tasks/stop-all", {"reason": "again", **which}).body["stopped"] == 0


@pytest.mark.django_db
def test_what_does_not_exist_is_refused_and_stops_nothing(api):
    start_world()
    answer = api("POST", "shadow-tasks/stop-all", {"reason": "x", "application": "nobodys"})
    assert (answer.status_code, len(on())) == (400, 3)
    assert api("POST", "shadow-tasks/stop-all", {"reason": "x", "task": "none"}).body["stopped"] == 0


@pytest.mark.django_db
def test_who_runs_it_now_and_for_whom_the_lease_is_not_enforced(api):
    _alice, made = start_world()
    one = made[0]
    put(one.zookeeper_path, 1, role="shadow", applied_generation=2, ip="10.0.0.7", state="running")
    put(one.zookeeper_path, 2, role="shadow", online=False)
    put(one.zookeeper_path, 3, role="shadow", plain=True)
    put(one.group.zookeeper_path, 4, role="consumer", plain=True)
    put(one.group.zookeeper_path, 5, role="consumer", applied_generation=1)
    shown = api("GET", f"shadow-tasks/{one.pk}").body
    assert [row["node"] for row in shown["running"]] == ["n1", "n3"]
    assert [row["node"] for row in shown["lease_not_enforced"]] == ["n3", "n4"]
    assert "running" not in api("GET", "shadow-tasks").body["results"][0]


@pytest.mark.django_db
def test_the_console_stops_what_its_list_shows_and_names_who_runs(client):
    alice, made = start_world()
    client.force_login(alice)
    counts = {"counts": {"succeeded": 12, "leaked": 2}, "counted_at": timezone.now()}
    put(made[0].zookeeper_path, 1, role="shadow", applied_generation=2, ip="10.0.0.7", app="orders", error="no route", **counts)
    put(made[0].group.zookeeper_path, 2, role="consumer", plain=True, ip="10.0.0.8")
    page = client.get(reverse("admin:consumers_shadow_detail", args=[made[0].pk])).content.decode()
    assert "10.0.0.7" in page
    assert "10.0.0.8" in page
    assert "2 leaked" in page
    assert "no route" in page
    assert "Lease not enforced" in page
    listed = client.get(reverse("admin:consumers_shadow"), {"task": "stress-1"}).content.decode()
    assert "Stop these: 2 are on" in listed
    where = reverse("admin:consumers_shadow_stop_all") + "?task=stress-1"
    assert f'href="{where}"' in listed
    shown = client.get(where).content.decode()
    assert "orders_stress_1_group" in shown
    assert "orders_stress_2_group" not in shown
    assert client.post(where, {"reason": "enough"}).status_code == 302
    assert on() == ["orders/stress-2/orders_stress_2_group"]


@pytest.mark.django_db
def test_of_two_who_end_a_lease_one_does_and_a_new_lease_wins(monkeypatch):
    alice, made = start_world()
    ShadowTask.objects.filter(pk__in=[made[0].pk, made[1].pk]).update(lease_until=timezone.now() - timedelta(seconds=1))
    stop = shadow.stop

    def meanwhile(*, actor, shadow, reason):
        """Another registrar ended the first one, and a person extended the second, since they were read."""
        row = ShadowTask.objects.select_related("application", "group", "topic").get(pk=shadow.pk)
        if row.enabled and row.pk == made[0].pk:
            stop(actor=None, shadow=row, reason="lease ended")
        elif row.enabled:
            services_start(actor=alice, shadow=row, minutes=5, reason="a little more")
        return stop(actor=actor, shadow=shadow, reason=reason)

    services_start = shadow.start
    monkeypatch.setattr(shadow, "stop", meanwhile)
    shadow.end_expired()
    assert on() == sorted(str(one) for one in made[1:])
    path = made[0].zookeeper_path
    assert Publication.objects.get(path=path).generation == 3  # added, on, off: once


@pytest.mark.django_db(transaction=True)
def test_a_registrar_ends_a_lease_while_no_celery_runs(world):  # noqa: F811
    _alice, made = start_world()
    one = made[0]
    world.registrar()
    published(one.zookeeper_path)
    raw = world.raw()
    raw.create(
        f"/zpt-instances/{one}/10.0.0.7@-@99", report(2, app="orders"), ephemeral=True, makepath=True
    )  # fmt: skip
    wait_for(lambda: Instance.objects.online().filter(path=one.zookeeper_path).exists())
    ShadowTask.objects.filter(pk=one.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    wait_for(lambda: json.loads(raw.get(one.zookeeper_path)[0])["enable"] == "0", what="the end of the lease in ZooKeeper")
    one.refresh_from_db()
    assert (one.enabled, one.reason) == (False, "lease ended")
    assert ShadowTask.objects.filter(enabled=True).count() == 2
