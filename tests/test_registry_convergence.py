"""Who runs which change, how long it took, and waiting for it: `?wait=`, `GET …/applied`, the history of an instance."""

import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.db.models import F
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone
from registry_world import committed, published, put_cluster, put_topic, wait_for, why, world  # noqa: F401
from test_registry_instances import PLAIN_5, ours, report

from accounts import authentication
from registry import clients, convergence, services
from registry.models import Instance, InstanceEvent, Publication, RegistrarHeartbeat, Release
from registry.observing import forget_old, record


def put(path, number, **values):
    fields = {"role": "producer", "app": "order-service", "czxid": number, "mzxid": number}
    return Instance.objects.create(path=path, node=f"n{number}", znode=f"{path}/n{number}", **fields | values)


def seen(znode, generation, mzxid, **more):
    stat = SimpleNamespace(czxid=more.pop("czxid", 5), mzxid=mzxid, ctime=1_700_000_000_000, mtime=1_700_000_000_000)
    record({znode: SimpleNamespace(data=report(generation, **more), stat=stat)})


def history(znode):
    return list(InstanceEvent.objects.filter(instance__znode=znode).order_by("id").values_list("kind", "generation", "detail"))


@pytest.fixture
def watching(db):
    return RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live")


@pytest.fixture
def topic(db):
    """Published in its third generation, ten seconds ago."""
    row = put_topic()
    out = {"published_at": timezone.now() - timedelta(seconds=10)}
    Publication.objects.filter(pk=row.pk).update(generation=3, published_generation=3, **out)
    Release.objects.filter(publication=row.pk).update(generation=3, **out)
    return row.path


def test_what_an_instance_applied_and_when_is_kept(db):
    znode = f"/zms/topic/orders/{ours(1)}"
    seen(znode, 0, 1, state="starting")
    seen(znode, 4, 2)
    first = Instance.objects.get().seen_at
    seen(znode, 4, 3, state="failed", error="no route to broker")
    seen(znode, 4, 4, state="failed", error="no route to broker")
    assert Instance.objects.get().seen_at == first
    seen(znode, 6, 5)
    assert Instance.objects.filter(czxid=5).gone() == ["/zms/topic/orders"]
    assert Instance.objects.all().gone() == []
    seen(znode, 6, 9, czxid=9)
    assert history(znode) == [
        ("online", 0, ""),
        ("applied", 4, ""),
        ("failed", 4, "no route to broker"),
        ("applied", 6, ""),
        ("offline", 6, ""),
        ("online", 6, ""),
    ]


def test_an_older_report_leaves_no_trace_in_the_history(db):
    znode = f"/zms/topic/orders/{ours(1)}"
    seen(znode, 4, 9)
    seen(znode, 3, 8)
    seen(znode, 4, 9)
    assert history(znode) == [("online", 4, ""), ("applied", 4, "")]


def test_clients_over_rest_have_a_history_too(db):
    from uuid import uuid4

    client, said = uuid4(), clients.Report
    fields = {"path": "/zms/topic/orders", "role": "producer", "app": "a", "ip": "", "name": "pod", "sdk": "", "pid": None}
    clients.register(client=client, **fields, report=said(generation=0))
    for _again in range(2):
        clients.beat(instance=clients.find(client), report=said(generation=2))
    clients.beat(instance=clients.find(client), report=said(error="no route"))
    clients.leave(instance=clients.find(client))
    clients.leave(instance=clients.find(client))
    clients.register(client=client, **fields, report=said(generation=3))
    kinds = [
        ("online", 0, ""),
        ("applied", 2, ""),
        ("failed", 2, "no route"),
        ("offline", 2, "left"),
        ("online", 3, ""),
        ("applied", 3, ""),
    ]
    assert history(clients.znode_of(client)) == kinds


def test_the_history_is_cut_and_those_gone_for_a_week_are_forgotten(db, monkeypatch):
    monkeypatch.setattr("registry.observing.KEEP_EVENTS", 3)
    here = put("/zms/topic/orders", 1)
    put("/zms/topic/orders", 2, online=False, offline_at=Now() - timedelta(days=8))
    for generation in range(5):
        InstanceEvent.objects.create(instance=here, kind="applied", generation=generation)
    InstanceEvent.objects.filter(generation=4).update(at=Now() - timedelta(days=8))
    assert forget_old() == 4
    assert [event.generation for event in InstanceEvent.objects.all()] == [3, 2]
    assert forget_old() == 0


def test_latency_runs_from_the_publication_for_those_who_were_there(topic):
    ten = Publication.objects.get(path=topic).published_at
    long_ago = ten - timedelta(days=1)
    common = {"applied_generation": 3, "first_seen": long_ago}
    put(topic, 1, **common, seen_at=ten + timedelta(milliseconds=200))
    put(topic, 2, **common, seen_at=ten + timedelta(milliseconds=1500))
    put(topic, 3, **common, seen_at=ten - timedelta(milliseconds=5))  # recorded a moment before the publication was
    put(topic, 4, applied_generation=3, seen_at=Now())  # it came later
    put(topic, 5, applied_generation=2, first_seen=long_ago, seen_at=long_ago)
    rows = Instance.objects.with_applied().order_by("node")
    assert [row.latency and row.latency.total_seconds() for row in rows] == [0.2, 1.5, timedelta(0), None, None]
    found = convergence.look(topic, 3)
    assert found.latency == convergence.Latency(count=3, p50_ms=200, p95_ms=1500, max_ms=1500)


def test_an_older_change_counts_for_those_who_went_past_it(topic):
    skipped, behind = put(topic, 1, applied_generation=3), put(topic, 2, applied_generation=1)
    InstanceEvent.objects.create(instance=skipped, kind="applied", generation=3)
    rows = {row.node: row for row in Instance.objects.with_applied_to(2, None)}
    assert (rows["n1"].applied, rows["n2"].applied) == ("applied", "outdated")
    assert (rows["n1"].reached_at is not None, rows["n2"].reached_at) == (True, None)
    assert [row.node for row in convergence.look(topic, 2).stragglers] == [behind.node]


def test_a_change_is_applied_when_all_that_tell_run_it(topic, watching):
    assert convergence.converged(topic, 3)
    put(topic, 1, applied_generation=3)
    put(topic, 2, plain=True)
    put(topic, 3, online=False, applied_generation=1)
    late = put(topic, 4, applied_generation=2)
    assert not convergence.converged(topic, 3)
    found = convergence.look(topic, 3)
    assert found.counts == {"applied": 1, "outdated": 1, "unknown": 1, "offline": 1}
    assert ([row.node for row in found.stragglers], [row.node for row in found.silent], found.applied) == (["n4"], ["n2"], False)
    late.delete()
    assert convergence.converged(topic, 3)
    assert convergence.look(topic, 3).applied
    assert not convergence.converged(topic, 4)


def test_nothing_is_applied_while_nobody_knows_who_is_online(topic):
    assert not convergence.converged(topic, 3)
    found = convergence.look(topic, 3)
    assert (found.published, found.known, found.applied) == (True, False, False)


# --- over REST ----------------------------------------------------------------------------------------------------------


def applied(api, address):
    answer = api("GET", address)
    assert answer.status_code == 200, answer.body
    return answer.body


@pytest.fixture
def active(api, api2, topic_fields, watching):
    """A topic that is published, with one instance that has applied it."""
    api("POST", "topics", {"name": "order_topic", **topic_fields})
    api2("POST", "topics/order_topic/approval", {"cluster": "builtin"})
    publish("/zms/topic/order_topic")
    return put("/zms/topic/order_topic", 1, applied_generation=1)


def publish(path):
    out = {"published_at": timezone.now()}
    Publication.objects.filter(path=path).update(published_generation=F("generation"), **out)
    Release.objects.filter(publication__path=path, published_at=None).update(**out)


@pytest.mark.parametrize("number", ["topics/order_topic/applied", "publications/{}/applied"])
def test_who_runs_the_newest_change(api, active, number):
    address = number.format(Publication.objects.get(path=active.path).pk)
    found = applied(api, address)
    assert (found["path"], found["generation"], found["published"], found["applied"]) == (active.path, 1, True, True)
    assert (found["instances"], found["stragglers"], found["waited"]) == (
        {"applied": 1, "outdated": 0, "unknown": 0, "offline": 0}, [], None,
    )  # fmt: skip
    services.republish(paths=[active.path], change=why())
    publish(active.path)
    found = applied(api, f"{address}?wait=applied&timeout=1ms")
    assert (found["generation"], found["applied"], found["waited"]["outcome"]) == (2, False, "timed_out")
    assert [(row["node"], row["applied_generation"]) for row in found["stragglers"]] == [("n1", 1)]
    assert applied(api, f"{address}?generation=1&wait=applied")["waited"]["outcome"] == "reached"


def test_what_was_never_published_says_so(api, topic_fields, watching):
    api("POST", "topics", {"name": "order_topic", **topic_fields})
    answer = api("GET", "topics/order_topic/applied")
    assert (answer.status_code, answer.body["code"]) == (404, "not_published")
    assert api("GET", "topics/none/applied").status_code == 404


@pytest.mark.parametrize(
    "query",
    ["wait=yes", "wait=applied&timeout=0s", "wait=applied&timeout=6m", "wait=applied&timeout=x", "wait=applied&timeout=-1", "timeout=3s",
     "generation=0", "generation=2", "generation=x"],
)  # fmt: skip
def test_parameters_that_make_no_sense_are_refused(api, active, query):
    answer = api("GET", f"topics/order_topic/applied?{query}")
    assert (answer.status_code, answer.body["code"]) == (400, "invalid_parameter")


def retire(api, query, **headers):
    return api("POST", f"topics/order_topic/retirement{query}", {"reason": "not needed"}, **headers)


def test_a_write_waits_after_its_commit_and_a_timeout_is_no_failure(api, active):
    Instance.objects.all().gone()
    answer = retire(api, "?wait=published&timeout=1ms")
    assert (answer.status_code, answer.body["state"]) == (200, "retired")
    waited = answer.body["waited"]
    assert (waited["goal"], waited["outcome"]) == ("published", "timed_out")
    assert (waited["change"]["generation"], waited["change"]["published"]) == (2, False)
    assert answer["ETag"] == f'"{answer.body["version"]}"'
    assert "waited" not in api("GET", "topics/order_topic").body


def test_a_repeated_write_waits_again_for_the_same_change(api, active):
    Instance.objects.all().gone()
    first = retire(api, "?wait=applied&timeout=1ms", **{"Idempotency-Key": "k1"})
    assert first.body["waited"]["outcome"] == "timed_out"
    publish(active.path)
    again = retire(api, "?wait=applied&timeout=1ms", **{"Idempotency-Key": "k1"})
    assert again["Idempotency-Replayed"] == "true"
    assert again.body["waited"]["outcome"] == "reached"
    assert {**again.body, "waited": 0} == {**first.body, "waited": 0}


def test_a_dry_run_waits_for_nothing_and_a_refusal_neither(api, active):
    rehearsed = retire(api, "?wait=applied&timeout=5m&dry_run=true")
    assert (rehearsed.status_code, rehearsed.body["code"]) == (409, "in_use")
    Instance.objects.all().gone()
    rehearsed = retire(api, "?wait=applied&timeout=5m&dry_run=true")
    assert (rehearsed.status_code, rehearsed.body["dry_run"]) == (200, True)
    assert "waited" not in rehearsed.body["result"]


def test_where_nothing_is_published_there_is_nothing_to_wait_for(api, topic_fields):
    made = api("POST", "topics?wait=applied", {"name": "order_topic", **topic_fields})
    assert made.status_code == 201
    assert made.body["waited"] == {"goal": "applied", "outcome": "nothing_to_wait_for", "seconds": 0.0, "change": None}


def test_too_many_waiting_are_refused_before_anything_is_done(api, active, monkeypatch):
    monkeypatch.setattr(settings, "MAX_WAITING_CHANGES", 0)
    Instance.objects.all().gone()
    refused = retire(api, "?wait=applied")
    assert (refused.status_code, refused.body["code"], refused["Retry-After"]) == (429, "too_many_waiting", "5")
    assert api("GET", "topics/order_topic").body["state"] == "active"
    monkeypatch.setattr(settings, "MAX_WAITING_CHANGES", 1)
    assert [retire(api, "?wait=applied&timeout=1ms").status_code, retire(api, "?wait=applied").status_code] == [
        200,
        409,
    ]  # the place is free


def test_names_are_shown_only_to_those_who_may_see_instances(api_without_rights, person_without_rights, active):
    from django.contrib.auth.models import Permission

    services.republish(paths=[active.path], change=why())
    publish(active.path)
    person_without_rights.user_permissions.add(Permission.objects.get(codename="view_topic"))
    found = applied(api_without_rights, "topics/order_topic/applied")
    assert (found["instances"]["outdated"], found["stragglers"]) == (1, [])
    person_without_rights.user_permissions.add(Permission.objects.get(codename="view_instance"))
    authentication.forget_all()  # it forgets by itself, by the clock
    assert [row["node"] for row in applied(api_without_rights, "topics/order_topic/applied")["stragglers"]] == ["n1"]


def test_instances_of_one_change_over_rest(api, active):
    InstanceEvent.objects.create(instance=active, kind="applied", generation=1)
    services.republish(paths=[active.path], change=why())
    publish(active.path)

    def rows(query):
        return [(row["node"], row["applied"], row["reached_at"] is not None) for row in api("GET", f"instances?{query}").body["results"]]

    assert rows(f"path={active.path}") == [("n1", "outdated", False)]
    assert rows(f"path={active.path}&generation=1") == [("n1", "applied", True)]
    assert rows(f"path={active.path}&generation=1&applied=outdated") == []
    assert api("GET", "instances?generation=1").body["code"] == "invalid_parameter"
    events = api("GET", f"instances/{active.pk}").body["events"]
    assert [(event["kind"], event["generation"]) for event in events] == [("applied", 1)]


def test_the_console_shows_how_long_who_took_and_the_history_of_each(client, admin_person, api, active):
    client.force_login(admin_person)
    published_at = Publication.objects.get(path=active.path).published_at
    Instance.objects.update(first_seen=published_at - timedelta(days=1), seen_at=published_at + timedelta(milliseconds=1500))
    InstanceEvent.objects.create(instance=active, kind="failed", generation=1, detail="no route to broker")
    put(active.path, 2, plain=True)
    number = Publication.objects.get(path=active.path).pk

    def page(name, *arguments, **query):
        answer = client.get(reverse(f"admin:{name}", args=arguments), query)
        assert answer.status_code == 200
        return answer.content.decode()

    for shown in (page("topics_instances", "order_topic"), page("registry_publication", number)):
        assert "p50 1.5 s, p95 1.5 s, longest 1.5 s, of 1 instance" in shown
        assert reverse("admin:registry_instance", args=[active.pk]) in shown
    assert "1.5 s" in page("registry_instances")
    own = reverse("admin:registry_instance", args=[active.pk])
    assert own in page("registry_instances", view="all")
    assert own not in page("registry_instances", view="all", state="nonsense")
    detail = page("registry_instance", active.pk)
    assert "no route to broker" in detail
    assert "1.5 s" in detail
    assert client.get(reverse("admin:registry_instance", args=[999_999])).status_code == 404


def test_counts_are_shown_as_of_when_and_nobodys_are_unknown(client, admin_person, api):
    from test_consumers_shadow import start_world

    client.force_login(admin_person)
    start_world()
    group = services.publication_for("/zms/consumergroup/orders_stress_1_group")
    then = timezone.now() - timedelta(seconds=90)
    busy = put(group.path, 1, role="consumer", counts={"succeeded": 4000, "failed": 3, "in_hand": 0, "own": 0.5}, counted_at=then)
    put(group.path, 2, role="consumer", counts={"succeeded": 1000, "received": 1200}, counted_at=timezone.now())
    put(group.path, 3, role="consumer", plain=True, app="")
    put(group.path, 4, role="consumer", online=False, counts={"succeeded": 77_000}, counted_at=then)

    tab = client.get(reverse("admin:consumers_instances", args=["orders_stress_1_group"])).content.decode()
    for shown in ("<i>succeeded</i>5,000", "<i>received</i>1,200", "2 of 3 online", "4,000", "A plain ZMS client does not tell"):
        assert shown in tab, shown
    assert "82,000" not in tab  # who has left counts no more
    listed = client.get(reverse("admin:registry_instances")).content.decode()
    assert "4,000" in listed
    assert "3 failed" in listed
    assert "as of " in listed
    detail = client.get(reverse("admin:registry_instance", args=[busy.pk])).content.decode()
    assert "0.5 own" in detail
    assert then.strftime("%Y-%m-%d") in detail

    told = {row["id"]: (row["counts"], row["counted_at"] is None) for row in api("GET", f"instances?path={group.path}").body["results"]}
    assert told[busy.pk] == ({"succeeded": 4000, "failed": 3, "in_hand": 0, "own": 0.5}, False)
    assert list(told.values()).count((None, True)) == 1


# --- with a registrar and instances that report -------------------------------------------------------------------------


def test_waiting_ends_when_the_last_straggler_reports(world):  # noqa: F811
    cluster, topic = put_cluster(), put_topic()
    world.registrar()
    published(cluster, topic)
    raw = world.raw()
    raw.create(f"{topic.path}/{ours(1)}", report(1), ephemeral=True)
    raw.create(f"{topic.path}/{ours(2)}", report(1), ephemeral=True)
    raw.create(f"{topic.path}/{PLAIN_5}", b"", ephemeral=True)
    wait_for(lambda: Instance.objects.online().count() == 3)
    services.republish(paths=[topic.path], change=why())
    assert convergence.wait(path=topic.path, generation=2, goal="published", timeout=30) == "reached"
    raw.set(f"{topic.path}/{ours(1)}", report(2))
    assert convergence.wait(path=topic.path, generation=2, goal="applied", timeout=0.3) == "timed_out"
    wait_for(lambda: [row.node for row in convergence.look(topic.path, 2).stragglers] == [ours(2)])

    threading.Timer(0.5, lambda: raw.set(f"{topic.path}/{ours(2)}", report(2))).start()
    assert convergence.wait(path=topic.path, generation=2, goal="applied", timeout=30) == "reached"
    found = convergence.look(topic.path, 2)
    assert (found.counts["applied"], found.counts["unknown"], found.latency.count) == (2, 1, 2)
    assert 0 <= found.latency.p50_ms <= found.latency.max_ms
    assert found.latency.max_ms >= 500  # the second one was told to wait


def test_the_end_of_the_process_interrupts_those_who_wait(committed, monkeypatch):  # noqa: F811
    put_topic()
    monkeypatch.setattr(convergence, "_closing", threading.Event())
    threading.Timer(0.2, convergence.close).start()
    began = time.monotonic()
    assert convergence.wait(path="/zms/topic/orders", generation=1, goal="applied", timeout=60) == "interrupted"
    assert time.monotonic() - began < 30
