"""What the control plane knows of the service registries; the nodes are made by an independent client, as the documents say they look."""

import json
from datetime import timedelta
from types import SimpleNamespace
from urllib.parse import quote_plus

import pytest
from django.utils import timezone
from kazoo.client import KazooClient
from registry_world import wait_for

from mqadmin_sdk.zk import Client
from registry import discovering, discovery_records
from registry import discovery_layouts as layouts
from registry.discovery_models import Registration, Service, ServiceEvent, WorkerId

pytestmark = pytest.mark.django_db
TREES = layouts.trees(["/dubbo"], ["/paascloud/registry"], ["/jobs"])
OURS = {"sdk": "mqadmin-python/0.1.0", "host": "10.0.0.1", "pid": 4711, "registeredAt": "2026-11-21T08:00:00.123Z"}


class Registries:
    """One tree, a registrar's part that follows it, and clients of other programs."""

    def __init__(self, hosts):
        self.hosts = hosts
        self.clients = []
        self.follower = self.another()

    def another(self):
        """One more registrar's part, with everything that stands read."""
        client = Client(self.hosts, timeout=10)
        self.clients.append(client)
        client.start(timeout=15)
        follower = discovering.Discoverer(client, TREES)
        follower.start()
        self.until(lambda: follower.state == "live", follower)
        return follower

    def raw(self):
        client = KazooClient(hosts=self.hosts, timeout=10)
        client.start(timeout=15)
        self.clients.append(client)
        return client

    def until(self, condition, *followers):
        """Let the followers work until it is so."""

        def worked():
            for follower in followers or (self.follower,):
                follower.step(0.02)
            return condition()

        return wait_for(worked, 30)

    def close(self):
        for client in self.clients:
            client.stop()
            client.close()


@pytest.fixture
def registries(zk_chroot):
    found = Registries(zk_chroot)
    yield found
    found.close()


def leaf(service, category="providers", address="10.0.0.1:20880", app="order-service", **more):
    said = {"application": app, "interface": service, **more}
    query = "&".join(f"{key}={value}" for key, value in sorted(said.items()))
    scheme = "consumer" if category == "consumers" else "dubbo"
    url = f"{scheme}://{address}/{service}?{query}"
    return f"/dubbo/{quote_plus(service, safe='*')}/{category}/{quote_plus(url, safe='*').replace('~', '%7E')}"


def register(client, path, data=OURS):
    client.create(path, json.dumps(data).encode() if isinstance(data, dict) else data, ephemeral=True, makepath=True)
    return path


def goodbye(client, path):
    """As our SDK leaves."""
    transaction = client.transaction()
    transaction.set_data(path, b'{"leaving":"2026-11-21T09:00:00.000Z"}')
    transaction.delete(path)
    assert transaction.commit()[1] is True


def of(path):
    return Registration.objects.get(key=layouts.key_of(path))


def history(service):
    """Oldest first: what, who, how."""
    return [(event.kind, event.name, event.departure) for event in ServiceEvent.objects.filter(service__name=service).order_by("id")]


def test_a_service_is_online_while_somebody_provides_it(registries):
    provider, consumer = registries.raw(), registries.raw()
    first = register(provider, leaf("com.shop.Stock", version="1.0.0", group="g"))
    registries.until(Registration.objects.online().exists)
    second = register(consumer, leaf("com.shop.Stock", "consumers", "10.0.0.2", "cart"), b"10.0.0.2")
    registries.until(lambda: Registration.objects.online().count() == 2)
    service = Service.objects.get()
    assert (service.name, service.layout, service.providers, service.consumers, service.online) == ("com.shop.Stock", "dubbo", 1, 1, True)
    row = of(first)
    assert (row.app, row.address, row.service_version, row.service_group, row.pid, row.polite) == (
        "order-service", "10.0.0.1:20880", "1.0.0", "g", 4711, True,
    )  # fmt: skip
    assert (of(second).kind, of(second).app, of(second).polite) == ("consumer", "cart", False)
    goodbye(provider, first)
    registries.until(lambda: not Registration.objects.online().filter(kind="provider").exists())
    service.refresh_from_db()
    assert (service.providers, service.online, service.offline_at is not None) == (0, False, True)
    assert list(Service.objects.wanted()) == [service]
    assert history("com.shop.Stock") == [
        ("registered", "10.0.0.1:20880", ""), ("online", "", ""), ("registered", "10.0.0.2", ""), ("left", "10.0.0.1:20880", "goodbye"),
        ("offline", "", ""),
    ]  # fmt: skip


def test_who_left_is_told_a_goodbye_from_a_loss(registries):
    polite, killed, plain = registries.raw(), registries.raw(), registries.raw()
    said = register(polite, leaf("a.Bye", address="10.0.0.1:1"))
    lost = [register(killed, leaf(name, address="10.0.0.2:1")) for name in ("a.Bye", "a.Other")]
    theirs = register(plain, leaf("a.Bye", address="10.0.0.3:1"), b"10.0.0.3")
    registries.until(lambda: Registration.objects.online().count() == 4)
    goodbye(polite, said)
    killed.stop()  # without a word: the session's end takes its nodes
    plain.delete(theirs)
    registries.until(lambda: not Registration.objects.online().exists())
    assert (of(said).departure, [of(path).departure for path in lost], of(theirs).departure) == ("goodbye", ["lost", "lost"], "unknown")
    assert set(Registration.objects.lost_lately()) == {of(path) for path in lost}
    assert [service.name for service in Service.objects.deserted().order_by("name")] == ["a.Bye", "a.Other"]


def test_a_node_deleted_by_hand_is_no_loss(registries):
    owner, hand = registries.raw(), registries.raw()
    gone, stays = register(owner, leaf("a.Hand")), register(owner, leaf("a.Hand", version="2"))
    registries.until(lambda: Registration.objects.online().count() == 2)
    hand.delete(gone)
    registries.until(lambda: Registration.objects.online().count() == 1)
    assert (of(gone).departure, of(stays).online) == ("removed", True)
    register(owner, gone)  # as our SDK does within a renewal interval
    registries.until(lambda: Registration.objects.online().count() == 2)
    assert (of(gone).departure, of(gone).offline_at) == ("", None)


def test_of_several_sessions_it_is_told_which_goes_on(registries, monkeypatch):
    monkeypatch.setattr(discovering, "WITNESSES", 1)
    ends, *stay, hand = (registries.raw() for _ in range(4))
    of_each = [
        [register(client, leaf(f"a.Many{n}", address=f"10.0.0.{number}:1")) for n in range(3)]
        for number, client in enumerate((ends, *stay))
    ]
    registries.until(lambda: Registration.objects.online().count() == 9)
    for paths in of_each[1:]:
        hand.delete(paths[0])
    ends.stop()
    registries.until(lambda: Registration.objects.online().count() == 4)
    assert [of(paths[0]).departure for paths in of_each] == ["lost", "removed", "removed"]


def test_one_that_is_taken_over_was_there_all_the_time(registries):
    old, new = registries.raw(), registries.raw()
    path = register(old, leaf("a.Taken"))
    registries.until(lambda: Registration.objects.online().exists())
    session = of(path).session
    transaction = new.transaction()
    transaction.delete(path)
    transaction.create(path, json.dumps(OURS).encode(), ephemeral=True)
    transaction.commit()
    registries.until(lambda: of(path).session != session)
    assert of(path).session == f"{new.client_id[0]:x}"
    assert [kind for kind, _name, _how in history("a.Taken")] == ["registered", "online"]


def test_what_happened_while_nobody_watched_is_found_and_nobody_saw_how(registries):
    client = registries.raw()
    gone, stays = register(client, leaf("a.Gap")), register(client, leaf("a.Gap", version="2"))
    registries.until(lambda: Registration.objects.online().count() == 2)
    registries.follower._zookeeper.stop()
    goodbye(client, gone)
    came = register(client, leaf("a.Gap", version="3"))
    registries.another()
    assert (of(gone).online, of(gone).departure, of(stays).online, of(came).online) == (False, "unknown", True, True)
    assert Service.objects.get().providers == 2


def test_looking_through_everything_again_is_no_reason_to_say_that_nobody_watches(registries, monkeypatch):
    path = register(registries.raw(), leaf("a.Again"))
    registries.until(Registration.objects.online().exists)
    seen = []
    compare = discovering.Discoverer._compare
    monkeypatch.setattr(discovering.Discoverer, "_compare", lambda self, tree: (seen.append(self.state), compare(self, tree)))
    registries.follower._next_compare = 0
    registries.follower.step(0.02)
    assert seen == ["live"] * 3
    assert of(path).online


def test_two_registrars_tell_everything_once(registries):
    other, client = registries.another(), registries.raw()
    path = register(client, leaf("a.Two"))
    registries.until(lambda: Registration.objects.online().exists(), registries.follower, other)
    goodbye(client, path)
    registries.until(lambda: not Registration.objects.online().exists(), registries.follower, other)
    for follower in (registries.follower, other, registries.follower):
        follower.step(0.2)
    assert [kind for kind, _name, _how in history("a.Two")] == ["registered", "online", "left", "offline"]


def test_an_application_is_online_with_its_first_host_and_offline_with_its_last(registries):
    one, two = registries.raw(), registries.raw()
    app = "/paascloud/registry/producer/order-service"
    one.create(app, b'{"namesrvAddr":"10.0.0.9:9876","producerGroup":"PID_ORDER"}', makepath=True)
    registries.until(lambda: Service.objects.filter(layout="messages").exists())
    service = Service.objects.get()
    assert (service.name, service.role, service.online, service.details) == (
        "order-service", "producer", False, {"group": "PID_ORDER", "servers": "10.0.0.9:9876"},
    )  # fmt: skip
    register(one, f"{app}/10.0.0.1", b"2026-11-21T08:00:00.123Z")
    registries.until(lambda: Service.objects.get().online)
    register(two, f"{app}/10.0.0.2", b"2026-11-21 08:00:00")
    registries.until(lambda: Registration.objects.online().count() == 2)
    assert [(row.address, row.app, row.polite) for row in Registration.objects.order_by("address")] == [
        ("10.0.0.1", "order-service", True), ("10.0.0.2", "order-service", False),
    ]  # fmt: skip
    one.stop()
    registries.until(lambda: Registration.objects.online().count() == 1)
    service.refresh_from_db()
    assert (service.online, service.providers) == (True, 1)
    two.stop()
    registries.until(lambda: not Registration.objects.online().exists())
    assert history("order-service") == [
        ("registered", "10.0.0.1", ""), ("online", "", ""), ("registered", "10.0.0.2", ""), ("left", "10.0.0.1", "lost"),
        ("left", "10.0.0.2", "unknown"), ("offline", "", ""),
    ]  # fmt: skip


def test_worker_ids_are_shown_with_those_given_twice(registries):
    client = registries.raw()
    for host, number in [("10.0.0.1", b"7"), ("10.0.0.2", b"8"), ("10.0.0.3", b"8"), ("10.0.0.4", b"x")]:
        client.create(f"/paascloud/registry/id/order-service/{host}", number, makepath=True)
    registries.until(lambda: WorkerId.objects.count() == 4)
    assert dict(WorkerId.objects.values_list("host", "number")) == {"10.0.0.1": 7, "10.0.0.2": 8, "10.0.0.3": 8, "10.0.0.4": None}
    assert sorted(row.host for row in WorkerId.objects.doubled()) == ["10.0.0.2", "10.0.0.3"]
    client.set("/paascloud/registry/id/order-service/10.0.0.3", b"9")
    client.delete("/paascloud/registry/id/order-service/10.0.0.4")
    registries.until(lambda: WorkerId.objects.count() == 3)
    assert not WorkerId.objects.doubled().exists()


def test_a_job_shows_its_leader_and_who_has_which_shard(registries):
    one, two = registries.raw(), registries.raw()
    job, a, b = "/jobs/nightly", "10.0.0.1@-@1", "10.0.0.2@-@2"
    one.create(f"{job}/config", b'{"jobName":"nightly","shardingTotalCount":3}', makepath=True)
    for client, name in ((one, a), (two, b)):
        register(client, f"{job}/instances/{name}")
        client.create(f"{job}/servers/{name.partition('@')[0]}", b"", makepath=True)
        latch = f"{job}/leader/election/latch/_c_{name[7]}-latch-"
        client.create(latch, name.encode(), ephemeral=True, sequence=True, makepath=True)
    one.create(f"{job}/leader/election/instance", a.encode(), ephemeral=True)
    for item, owner in enumerate((a, b, b)):
        one.create(f"{job}/sharding/{item}/instance", owner.encode(), makepath=True)
    two.create(f"{job}/sharding/1/running", b.encode(), ephemeral=True)
    one.set(f"{job}/sharding/2", b'{"running":"10.0.0.3@-@3","since":"2026-11-21T08:00:00.000Z"}')

    def shown():
        found = Service.objects.filter(layout="jobs").first()
        return found if found and len(found.details.get("shards", [])) == 3 and found.details["shards"][2]["state"] != "idle" else None

    service = registries.until(shown)
    first = one.exists(f"{job}/leader/election/latch/{min(one.get_children(f'{job}/leader/election/latch'), key=lambda n: n[-10:])}")
    assert (service.leader, service.leader_token, service.online, service.providers) == (a, first.czxid, True, 2)
    assert service.details["shards"] == [
        {"item": "0", "state": "idle", "instance": a, "running": "", "failover": ""},
        {"item": "1", "state": "running", "instance": b, "running": b, "failover": ""},
        {"item": "2", "state": "interrupted", "instance": b, "running": "", "failover": ""},
    ]
    assert service.details["candidates"] == 2
    one.stop()  # its name goes with it: nobody is known to lead until the next one says so
    registries.until(lambda: not Service.objects.get().leader)
    two.create(f"{job}/leader/election/instance", b.encode(), ephemeral=True)
    registries.until(lambda: Service.objects.get().leader == b)
    assert Service.objects.get().leader_token > first.czxid
    assert [name for kind, name, _how in history("nightly") if kind == "leader"] == [a, "", b]


def test_a_latch_and_a_job_belong_to_those_who_say_so(registries):
    one = registries.raw()
    for latch, app in (("cleaning", "billing"), ("sweeping", "ledger")):
        place = f"/jobs/{latch}/leader/election/latch/_c_1-latch-"
        one.create(place, b"10.0.0.1@-@1", ephemeral=True, sequence=True, makepath=True)
        register(one, f"/jobs/{latch}/leader/candidates/10.0.0.1@-@1", b'{"sdk":"x","pid":1,"app":"%s"}' % app.encode())
    register(one, "/jobs/nightly/instances/10.0.0.1@-@1", b'{"sdk":"x","pid":1,"app":"billing"}')
    registries.until(lambda: Registration.objects.online().count() == 3)
    registries.until(lambda: Service.objects.filter(layout="jobs").count() == 3)
    found = {row.name: (row.apps, row.providers) for row in Service.objects.with_apps()}
    assert found == {"cleaning": (["billing"], 0), "sweeping": (["ledger"], 0), "nightly": (["billing"], 1)}
    assert set(Registration.objects.values_list("kind", "address")) == {("candidate", "10.0.0.1"), ("instance", "10.0.0.1")}
    registries.another()  # finds the same by comparing
    assert {row.name: row.apps for row in Service.objects.with_apps()} == {name: apps for name, (apps, _providers) in found.items()}


def test_children_that_are_no_urls_and_nodes_of_dubbo_s_own_are_no_services(registries):
    client = registries.raw()
    client.create("/dubbo/config/dubbo.properties", b"x", makepath=True)
    client.create("/dubbo/a.Odd/providers/not-a-url", b"", makepath=True)
    register(client, leaf("a.Odd"))
    registries.until(Registration.objects.exists)
    assert [service.name for service in Service.objects.all()] == ["a.Odd"]
    assert Registration.objects.count() == 1
    registries.another()
    assert (Service.objects.count(), Registration.objects.count()) == (1, 1)


def test_what_no_index_takes_and_what_no_text_is_holds_nobody_up(registries):
    client = registries.raw()
    long = register(client, leaf("a.Long", methods=",".join(f"method{number}" for number in range(2000))))
    register(client, leaf("b" * 600))
    register(client, leaf("a.Wrong", address="[::1"), b"\xff\x00")
    register(client, "/paascloud/registry/consumer/\u597d/10.0.0.1", b"{")
    registries.until(lambda: Registration.objects.count() == 3)
    assert of(long).address == "10.0.0.1:20880"
    assert {service.name for service in Service.objects.all()} == {"a.Long", "a.Wrong", "\u597d"}


def test_a_registry_that_is_flooded_fills_no_table_and_says_so(registries, monkeypatch):
    monkeypatch.setattr(discovery_records, "MAX_SERVICES", 3)
    one = registries.raw()
    first = [register(one, leaf(f"com.shop.S{number}", address=f"10.0.0.{number}:20880")) for number in range(3)]
    registries.until(lambda: Registration.objects.online().count() == 3)
    assert registries.follower.unrecorded["/dubbo"] == 0
    flood = [register(one, leaf(f"com.flood.S{number}")) for number in range(5)]  # before the others by name
    registries.until(lambda: registries.follower.unrecorded["/dubbo"] == 5)
    again = registries.another()  # by comparing
    assert again.unrecorded == {"/dubbo": 5, "/paascloud/registry": 0, "/jobs": 0}
    recorded = [f"com.shop.S{number}" for number in range(3)]
    assert sorted(Service.objects.values_list("name", flat=True)) == recorded
    assert Registration.objects.online().count() == 3  # and those that are recorded are not taken for gone
    # What is gone makes room, with its history.
    goodbye(one, first[0])
    one.delete(first[0].rpartition("/")[0])
    one.delete(first[0].rsplit("/", 2)[0])
    registries.until(lambda: not Service.objects.get(name="com.shop.S0").online)
    for path in flood[1:]:
        one.delete(path)
        one.delete(path.rpartition("/")[0])
        one.delete(path.rsplit("/", 2)[0])
    registries.follower._to_compare.add("/dubbo")
    registries.until(lambda: Service.objects.filter(name="com.flood.S0", online=True).exists())
    assert sorted(Service.objects.values_list("name", flat=True)) == ["com.flood.S0", "com.shop.S1", "com.shop.S2"]
    assert registries.follower.unrecorded["/dubbo"] == 0


def test_a_flood_of_applications_and_of_jobs_is_bounded_too(registries, monkeypatch):
    monkeypatch.setattr(discovery_records, "MAX_SERVICES", 2)
    one = registries.raw()
    for number in range(4):
        register(one, f"/paascloud/registry/producer/app-{number}/10.0.0.1", b"2026-11-21T08:00:00.123Z")
        register(one, f"/jobs/job-{number}/instances/10.0.0.1@-@1")
    registries.until(lambda: registries.follower.unrecorded == {"/dubbo": 0, "/paascloud/registry": 2, "/jobs": 2})
    assert (Service.objects.filter(layout="jobs").count(), Service.objects.filter(layout="messages").count()) == (2, 2)


def test_a_wiped_ensemble_begins_a_history_of_its_own(registries):
    path = register(registries.raw(), leaf("a.Wiped"))
    registries.until(lambda: Registration.objects.online().exists())
    Registration.objects.update(mzxid=2**50, czxid=2**50)  # as if it had been seen before the wipe
    Service.objects.update(zxid=2**50)
    registries.another()
    row = of(path)
    assert (row.online, row.mzxid < 2**50) == (True, True)


def test_what_is_long_gone_is_forgotten_and_histories_are_cut(registries, monkeypatch):
    client = registries.raw()
    old, new = register(client, leaf("a.Old")), register(client, leaf("a.Old", version="2"))
    registries.until(lambda: Registration.objects.online().count() == 2)
    goodbye(client, old)
    goodbye(client, new)
    registries.until(lambda: not Registration.objects.online().exists())
    Registration.objects.filter(pk=of(old).pk).update(offline_at=timezone.now() - timedelta(days=8))
    monkeypatch.setattr(discovery_records, "KEEP_EVENTS", 2)
    discovery_records.forget_old()
    assert list(Registration.objects.all()) == [of(new)]
    assert [kind for kind, _name, _how in history("a.Old")] == ["left", "offline"]
    client.delete("/dubbo/a.Old", recursive=True)
    registries.follower._to_compare.add("/dubbo")
    registries.until(lambda: not Service.objects.get().standing)
    Service.objects.update(offline_at=timezone.now() - timedelta(days=31))
    discovery_records.forget_old()
    assert not Service.objects.exists()


@pytest.mark.parametrize(
    ("dubbo", "messages", "jobs"),
    [
        (["/"], [], []),
        (["/zms/topic"], [], []),
        (["/dubbo", "/dubbo/x"], [], []),
        (["/a"], ["/a"], []),
        ([], [], ["/x/../y"]),
        (["/zms"], [], []),
    ],
)
def test_roots_that_overlap_or_are_none_are_refused(dubbo, messages, jobs, settings):
    from mqadmin.checks import registry_roots

    settings.REGISTRY_DUBBO, settings.REGISTRY_MESSAGES, settings.REGISTRY_JOBS = dubbo, messages, jobs
    assert [found.id for found in registry_roots()] == ["mqadmin.E024"]
    assert discovering.trees() == ()  # the registrar goes on publishing


def test_a_password_in_a_url_is_not_shown_as_an_address():
    node = SimpleNamespace(data=b"", stat=SimpleNamespace(ephemeralOwner=1, czxid=1, mzxid=1, ctime=0))
    row = layouts.describe(TREES[0], leaf("a.S", address="user:secret@10.0.0.1:1"), node)
    assert (row["address"], "secret" in row["name"]) == ("10.0.0.1:1", False)
