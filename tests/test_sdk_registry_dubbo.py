"""Dubbo's registry, case by case, on ZooKeeper and in memory: what is registered, what listeners are told, what a lookup finds."""

import contextlib
import itertools
import sys
import threading
import uuid
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from registry_world import wait_for

from mqadmin_sdk.registry import (
    Directory,
    Registry,
    RegistryClosedError,
    RegistryError,
    ServiceUrl,
    UrlError,
    matches,
    matches_glob,
    open_registry,
)
from mqadmin_sdk.registry.memory import MemoryRegistry
from mqadmin_sdk.registry.urls import encode, matches_category
from mqadmin_sdk.registry.zookeeper import ZooKeeperRegistry, hosts_of

SERVICE = "com.example.Orders"


def provider(number=1, service=SERVICE, **parameters):
    return ServiceUrl("dubbo", f"10.0.0.{number}", 20880, service, {"application": "shop", **parameters})


def consumer(service=SERVICE, **parameters):
    return ServiceUrl("consumer", "10.1.0.1", 0, service, parameters)


class Heard:
    """A listener that remembers."""

    def __init__(self):
        self.notes = []

    def __call__(self, notification):
        self.notes.append(notification)

    def last(self, category="providers", service=SERVICE):
        found = [note for note in self.notes if (note.category, note.service) == (category, service)]
        return sorted(url.host for url in found[-1].live) if found else None


@pytest.fixture(params=["zookeeper", "memory"])
def registries(request):
    """Makes registries on one tree, each with a session of its own."""
    address, sessions = f"memory://{uuid.uuid4().hex}", itertools.count(1)
    if request.param == "zookeeper":
        address = f"zookeeper://{request.getfixturevalue('zk_chroot')}"
    with contextlib.ExitStack() as stack:

        def make(**options):
            kind = ZooKeeperRegistry if request.param == "zookeeper" else MemoryRegistry
            found = kind(ServiceUrl.parse(address), session_timeout=6 + next(sessions) / 1000, **options)
            return stack.enter_context(found)

        yield make


@pytest.fixture
def registry(registries):
    return registries()


@pytest.fixture
def raw(zk_chroot):
    client = KazooClient(zk_chroot)
    client.start(timeout=15)
    yield client
    client.stop()
    client.close()


@pytest.fixture
def on_zookeeper(zk_chroot):
    with ZooKeeperRegistry(ServiceUrl.parse(f"zookeeper://{zk_chroot}"), session_timeout=6) as found:
        yield found


# --- paths and addresses ------------------------------------------------------------------------------------------------------


def test_paths_are_dubbos_to_the_byte(on_zookeeper, raw):
    url = ServiceUrl.parse("dubbo://10.0.0.1:20880/com.example.Orders?version=1.0&methods=a,b&application=the shop&x=~*é&anyhost=true")
    on_zookeeper.register(url)
    assert raw.get_children("/dubbo/com.example.Orders") == ["providers"]
    assert raw.get_children("/dubbo/com.example.Orders/providers") == [
        (
            "dubbo%3A%2F%2F10.0.0.1%3A20880%2Fcom.example.Orders%3Fanyhost%3Dtrue%26application%3Dthe+shop%26methods%3Da%2Cb%26version%3D1.0"
            "%26x%3D%7E*%C3%A9"
        )
    ]
    stat = raw.exists(f"/dubbo/com.example.Orders/providers/{encode(str(url))}")
    assert stat.ephemeralOwner == on_zookeeper._keeper.client.session
    assert raw.exists("/dubbo/com.example.Orders/providers").ephemeralOwner == 0


def test_each_category_has_a_node_and_what_is_not_dynamic_is_persistent(zk_chroot, raw):
    with ZooKeeperRegistry(ServiceUrl.parse(f"zookeeper://{zk_chroot}?group=billing/dubbo")) as registry:
        registry.register(provider())
        registry.register(consumer(category="consumers"))
        registry.register(ServiceUrl.parse("override://0.0.0.0/com.example.Orders?category=configurators&dynamic=false&timeout=10"))
    assert sorted(raw.get_children("/billing/dubbo/com.example.Orders")) == ["configurators", "consumers", "providers"]
    left = {name: raw.get_children(f"/billing/dubbo/com.example.Orders/{name}") for name in ("configurators", "consumers", "providers")}
    assert left["providers"] == left["consumers"] == []
    assert left["configurators"] == [
        "override%3A%2F%2F0.0.0.0%2Fcom.example.Orders%3Fcategory%3Dconfigurators%26dynamic%3Dfalse%26timeout%3D10"
    ]


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("zookeeper://10.0.0.1", "10.0.0.1:2181"),
        ("zookeeper://10.0.0.1:0", "10.0.0.1:2181"),
        ("zookeeper://10.0.0.1:2182", "10.0.0.1:2182"),
        ("zookeeper://a:1,b:0,c/prod/x?group=g", "a:1,b:2181,c:2181/prod/x"),
        ("zookeeper://a?backup=b:3,c", "a:2181,b:3,c:2181"),
        ("zookeeper://[::1]", "[::1]:2181"),
    ],
)
def test_the_default_port_is_2181_when_it_is_absent_or_0(address, hosts):
    assert hosts_of(ServiceUrl.parse(address)) == hosts


@pytest.mark.parametrize("address", ["zookeeper://0.0.0.0:2181", "zookeeper://", "zookeeper://a:1,0.0.0.0:2181"])
def test_an_address_that_nobody_can_reach_is_refused(address):
    with pytest.raises(ValueError, match="address names no server"):
        open_registry(address)


def test_a_url_that_zookeeper_cannot_hold_is_refused_before_it_is_sent(on_zookeeper):
    with pytest.raises(UrlError, match="512000 at most"):
        on_zookeeper.register(provider(note="x" * 600_000))
    wait_for(on_zookeeper.is_available)


def test_the_same_address_and_group_give_the_same_registry_until_it_is_closed(zk_chroot):
    for address in (f"zookeeper://{zk_chroot}", f"memory://{uuid.uuid4().hex}"):
        first = open_registry(address)
        assert isinstance(first, Registry)
        assert open_registry(address) is open_registry(f"{address}?group=dubbo") is first
        other = open_registry(f"{address}?group=other")
        assert other is not first
        other.close()
        first.close()
        again = open_registry(address)
        assert again is not first
        assert again.lookup(consumer()) == []
        again.close()


def test_packages_bring_backends_by_entry_point(tmp_path, monkeypatch):
    (tmp_path / "brought.py").write_text("class Registry:\n    closed = False\n    def __init__(self, url, **options): self.url = url\n")
    info = tmp_path / "brought-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[mqadmin_sdk.registry]\nbrought = brought:Registry\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert open_registry("brought://h").url.host == "h"
    with pytest.raises(RegistryError, match="No package brings a registry for absent://"):
        open_registry("absent://h")


# --- register and unregister --------------------------------------------------------------------------------------------------


def test_registering_the_same_url_twice_registers_it_once(registry, registries):
    registry.register(provider())
    registry.register(provider())
    assert registries().lookup(consumer()) == [provider()]


def test_registering_the_same_url_twice_makes_one_node(on_zookeeper, raw):
    on_zookeeper.register(provider())
    stat = raw.exists(f"/dubbo/{SERVICE}/providers/{encode(str(provider()))}")
    on_zookeeper.register(provider())
    assert raw.exists(f"/dubbo/{SERVICE}/providers/{encode(str(provider()))}") == stat


def test_an_ephemeral_node_of_an_older_session_is_taken_over(zk_chroot, on_zookeeper, raw):
    """Left alone it would vanish with that session."""
    path = f"/dubbo/{SERVICE}/providers/{encode(str(provider()))}"
    older = KazooClient(zk_chroot)
    older.start(timeout=15)
    older.create(path, b"", ephemeral=True, makepath=True)
    on_zookeeper.register(provider())
    assert raw.exists(path).ephemeralOwner == on_zookeeper._keeper.client.session
    older.stop()
    older.close()
    assert raw.exists(path) is not None


def test_a_persistent_node_is_kept_with_a_warning(on_zookeeper, raw, caplog):
    path = f"/dubbo/{SERVICE}/providers/{encode(str(provider()))}"
    raw.create(path, b"theirs", makepath=True)
    on_zookeeper.register(provider())
    assert "is there and persistent" in caplog.text
    on_zookeeper.unregister(provider())
    assert raw.get(path)[0] == b"theirs"


def test_three_are_registered_and_none_after_unregistering_all(registry, registries):
    looking = registries()
    for number in (1, 2, 3):
        registry.register(provider(number))
    assert len(looking.lookup(consumer())) == 3
    for number in (1, 2, 3):
        registry.unregister(provider(number))
    assert looking.lookup(consumer()) == []


def test_unregistering_what_is_not_there_is_no_error(registry):
    registry.unregister(provider())
    registry.unregister(provider(dynamic="false"))
    assert registry.lookup(consumer()) == []


def test_a_persistent_url_is_unregistered_by_whoever_does_it(registries):
    first = registries()
    first.register(provider(dynamic="false"))
    first.close()
    second = registries()
    assert second.lookup(consumer()) == [provider(dynamic="false")]
    second.unregister(provider(dynamic="false"))
    assert second.lookup(consumer()) == []


def test_nobody_unregisters_what_another_process_offers(registries):
    first, second = registries(), registries()
    first.register(provider())
    second.unregister(provider())
    assert second.lookup(consumer()) == [provider()]


# --- subscribe ----------------------------------------------------------------------------------------------------------------


def test_subscribing_returns_after_one_notification_for_each_category_with_the_full_list(registry):
    registry.register(provider(1))
    registry.register(provider(2))
    heard = Heard()
    registry.subscribe(consumer(category="providers,routers,configurators"), heard)
    assert [note.category for note in heard.notes] == ["providers", "routers", "configurators"]
    assert heard.last() == ["10.0.0.1", "10.0.0.2"]


def test_when_nothing_matches_there_is_one_empty_url_for_the_category(registry):
    heard = Heard()
    registry.register(provider(version="2.0"))
    registry.subscribe(consumer(version="1.0", category="*"), heard)
    assert [[str(url) for url in note.urls] for note in heard.notes] == [
        [f"empty://10.1.0.1/{SERVICE}?category={category}&interface={SERVICE}&version=1.0"]
        for category in ("providers", "consumers", "routers", "configurators")
    ]
    assert all(note.live == () and not note.stale for note in heard.notes)


def test_each_change_is_notified_as_the_full_list_of_its_category(registry, registries):
    heard = Heard()
    registry.subscribe(consumer(category="providers,routers"), heard)
    offering = registries()
    offering.register(provider(1))
    wait_for(lambda: heard.last() == ["10.0.0.1"])
    offering.register(provider(2))
    wait_for(lambda: heard.last() == ["10.0.0.1", "10.0.0.2"])
    offering.unregister(provider(1))
    wait_for(lambda: heard.last() == ["10.0.0.2"])
    offering.unregister(provider(2))
    wait_for(lambda: heard.last() == [])
    assert [note.category for note in heard.notes].count("routers") == 1


def test_only_what_matches_is_notified(registry, registries):
    heard = Heard()
    registry.subscribe(consumer(group="g", version="1.0"), heard)
    offering = registries()
    for number, parameters in enumerate(({"group": "g"}, {"version": "1.0"}, {"group": "g", "version": "1.0"}), 1):
        offering.register(provider(number, **parameters))
    wait_for(lambda: heard.last() == ["10.0.0.3"])
    assert len(heard.notes) == 2


def test_a_listener_that_raises_keeps_no_other_from_hearing_and_is_called_again(registry, registries, caplog):
    heard, calls = Heard(), []

    def clumsy(notification):
        calls.append(notification)
        raise ValueError("clumsy")

    registry.subscribe(consumer(), clumsy)
    registry.subscribe(consumer(), heard)
    registries().register(provider())
    wait_for(lambda: heard.last() == ["10.0.0.1"])
    wait_for(lambda: len(calls) == 2)
    assert "A listener of com.example.Orders failed" in caplog.text


def test_an_unsubscribed_listener_hears_nothing_more(registry, registries):
    heard, other = Heard(), Heard()
    registry.subscribe(consumer(), heard)
    registry.subscribe(consumer(), other)
    registry.unsubscribe(consumer(), heard)
    registries().register(provider())
    wait_for(lambda: other.last() == ["10.0.0.1"])
    assert heard.last() == []


def test_a_listener_may_subscribe_and_unsubscribe(registry, registries):
    inner, done = Heard(), threading.Event()

    def outer(notification):
        if notification.live:
            registry.subscribe(consumer("com.example.Other"), inner)
            registry.unsubscribe(consumer(), outer)
            done.set()

    registry.subscribe(consumer(), outer)
    offering = registries()
    offering.register(provider())
    assert done.wait(30)
    offering.register(provider(service="com.example.Other"))
    wait_for(lambda: inner.last(service="com.example.Other") == ["10.0.0.1"])


def test_every_listener_of_all_services_hears_of_those_present_and_of_later_ones(registry, registries):
    """Dubbo loses the later ones for its second listener."""
    offering = registries()
    offering.register(provider(service="com.example.A"))
    first, second = Heard(), Heard()
    registry.subscribe(consumer("*"), first)
    registry.subscribe(consumer("*", version="*"), second)
    assert first.last(service="com.example.A") == second.last(service="com.example.A") == ["10.0.0.1"]
    offering.register(provider(2, service="com.example.B"))
    offering.register(provider(3, service="com.example.B", version="2.0"))
    wait_for(lambda: second.last(service="com.example.B") == ["10.0.0.2", "10.0.0.3"])
    wait_for(lambda: first.last(service="com.example.B") == ["10.0.0.2"])
    offering.unregister(provider(2, service="com.example.B"))
    wait_for(lambda: first.last(service="com.example.B") == [])
    wait_for(lambda: second.last(service="com.example.B") == ["10.0.0.3"])


def test_unsubscribing_from_all_services_ends_what_was_derived_from_it(registry, registries):
    offering, heard, other = registries(), Heard(), Heard()
    offering.register(provider(service="com.example.A"))
    registry.subscribe(consumer("*"), heard)
    registry.subscribe(consumer("*"), other)
    registry.unsubscribe(consumer("*"), heard)
    offering.register(provider(2, service="com.example.A"))
    offering.register(provider(2, service="com.example.B"))
    wait_for(lambda: other.last(service="com.example.A") == ["10.0.0.1", "10.0.0.2"] and other.last(service="com.example.B"))
    assert [note.live for note in heard.notes] == [(provider(service="com.example.A"),)]


def test_a_service_that_is_deleted_and_comes_again_is_told_to_listeners_of_all(zk_chroot, on_zookeeper, raw):
    heard = Heard()
    path = f"/dubbo/com.example.A/providers/{encode(str(provider(service='com.example.A')))}"
    on_zookeeper.subscribe(consumer("*"), heard)
    assert heard.notes == []
    for _ in range(2):
        raw.create(path, b"", makepath=True)
        wait_for(lambda: heard.last(service="com.example.A") == ["10.0.0.1"])
        raw.delete("/dubbo", recursive=True)
        wait_for(lambda: heard.last(service="com.example.A") == [])


def test_a_child_that_is_no_url_is_skipped(on_zookeeper, raw):
    raw.ensure_path(f"/dubbo/{SERVICE}/providers/not-a-url")
    raw.ensure_path(f"/dubbo/{SERVICE}/providers/{encode('dubbo://h:port/x')}")
    on_zookeeper.register(provider())
    heard = Heard()
    on_zookeeper.subscribe(consumer(), heard)
    assert heard.last() == ["10.0.0.1"]
    assert on_zookeeper.lookup(consumer()) == [provider()]


# --- lookup -------------------------------------------------------------------------------------------------------------------


def test_a_lookup_reads_directly_and_finds_what_matches_and_nothing_else(registry, registries):
    assert registry.lookup(consumer()) == []
    offering = registries()
    offering.register(provider(1, version="1.0"))
    offering.register(provider(2, version="2.0"))
    offering.register(ServiceUrl.parse(f"route://0.0.0.0/{SERVICE}?category=routers&dynamic=false&version=1.0"))
    assert registry.lookup(consumer(version="1.0")) == [provider(1, version="1.0")]
    assert registry.lookup(consumer(version="3.0")) == []
    assert [url.protocol for url in registry.lookup(consumer(version="1.0", category="*"))] == ["dubbo", "route"]
    assert len(registry.lookup(consumer("*", version="*"))) == 2


@pytest.mark.parametrize("call", ["register", "unregister", "lookup"])
def test_nothing_is_no_url(registry, call):
    with pytest.raises(UrlError):
        getattr(registry, call)(None)


def test_nothing_is_no_subscription(registry):
    with pytest.raises(UrlError):
        registry.subscribe(None, print)
    with pytest.raises(UrlError):
        registry.unsubscribe(None, print)


# --- closing ------------------------------------------------------------------------------------------------------------------


def test_closing_takes_dynamic_urls_and_listeners_away_at_once_and_refuses_later_calls(registries):
    offering, looking, heard = registries(), registries(), Heard()
    offering.register(provider(1))
    offering.register(provider(2, dynamic="false"))
    offering.subscribe(consumer(), heard)
    assert offering.is_available()
    offering.close()
    assert looking.lookup(consumer()) == [provider(2, dynamic="false")]
    assert not offering.is_available()
    assert offering.closed
    looking.register(provider(3))
    for call in (
        lambda: offering.register(provider()),
        lambda: offering.unregister(provider()),
        lambda: offering.subscribe(consumer(), heard),
        lambda: offering.unsubscribe(consumer(), heard),
        lambda: offering.lookup(consumer()),
    ):
        with pytest.raises(RegistryClosedError):
            call()
    offering.close()
    assert heard.last() == ["10.0.0.1", "10.0.0.2"]


def held():
    """Threads of this process, and its sockets and pipes; kazoo makes an epoll for each wait."""
    links = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return {thread.name for thread in threading.enumerate()}, {link for link in links if link.startswith(("socket", "pipe"))}


def test_closing_leaves_no_thread_and_no_connection_behind(zk_chroot):
    threads, descriptors = held()
    for _ in range(5):
        with ZooKeeperRegistry(ServiceUrl.parse(f"zookeeper://{zk_chroot}"), session_timeout=6) as registry:
            registry.register(provider())
            registry.subscribe(consumer(), Heard())
    wait_for(lambda: held()[0] <= threads and held()[1] <= descriptors)


# --- matching -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "offered", "found"),
    [
        ({"group": "test", "version": "1.0.0"}, {"group": "test", "version": "1.0.0"}, True),
        ({"group": "test", "version": "2.0.0"}, {"group": "test", "version": "1.0.0"}, False),
        ({"group": "aa", "version": "1.0.0"}, {"group": "test", "version": "1.0.0"}, False),
        ({"group": "*", "version": "1.0.0"}, {"group": "test", "version": "1.0.0"}, True),
        ({"group": "test", "version": "*"}, {"group": "test", "version": "1.0.0"}, True),
        ({"group": "a, test", "version": "*"}, {"group": "test"}, True),
        ({"group": "a,testing"}, {"group": "test"}, False),
        ({"group": "test"}, {}, False),
        ({}, {"group": "test"}, False),
        ({}, {}, True),
        ({"version": "1.0.0"}, {}, False),
        ({}, {"version": "1.0.0"}, False),
        ({"interface": "*"}, {}, True),
        ({}, {"interface": "*"}, True),
        ({"interface": "com.example.Other"}, {}, False),
        ({}, {"enabled": "false"}, False),
        ({"enabled": "*"}, {"enabled": "false"}, True),
        ({"enabled": "false"}, {"enabled": "false"}, False),
        ({}, {"enabled": "true"}, True),
        ({"classifier": "x"}, {"classifier": "x"}, True),
        ({"classifier": "x"}, {"classifier": "y"}, False),
        ({"classifier": "*"}, {"classifier": "y"}, True),
        ({}, {"classifier": "y"}, True),
        ({}, {"category": "routers"}, False),
        ({"category": "*"}, {"category": "routers"}, True),
        ({"category": "-routers"}, {"category": "routers"}, False),
        ({"category": "-routers"}, {}, True),
        ({"category": "providers,routers"}, {"category": "routers"}, True),
    ],
)
def test_what_a_consumer_means(asked, offered, found):
    assert matches(consumer(**asked), provider(**offered)) is found


def test_categories():
    assert matches_category("providers", "")
    assert not matches_category("routers", "")
    assert not matches_category("router", "routers")
    assert consumer(category="-routers,-consumers").categories == ("providers", "configurators")


@pytest.mark.parametrize(
    ("pattern", "value", "found"),
    [
        ("*", "value", True),
        ("v*", "value", True),
        ("*e", "value", True),
        ("v*e", "value", True),
        ("value", "value", True),
        ("x*", "value", False),
        ("*x", "value", False),
        ("v*x", "value", False),
        ("", None, True),
        (None, "", True),
        ("", "value", False),
        ("value", None, False),
        ("aba*aba", "aba", False),
    ],
)
def test_globs(pattern, value, found):
    assert matches_glob(pattern, value) is found


# --- URLs ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "dubbo://10.0.0.1:20880/com.example.Orders?a=1&b=2",
        "dubbo://user:secret@10.0.0.1:20880/com.example.Orders",
        "consumer://10.0.0.1/com.example.Orders?check=false",
        "rest://[::1]:80/x?path=/a/b",
        "empty://h/s?category=routers",
        "dubbo://h",
    ],
)
def test_a_url_is_read_and_written_as_it_was(text):
    assert str(ServiceUrl.parse(text)) == text


def test_parameters_are_sorted_and_a_key_alone_is_its_own_value():
    assert str(ServiceUrl.parse("dubbo://h/s?b=2&a=1=x&flag&")) == "dubbo://h/s?a=1=x&b=2&flag=flag"


@pytest.mark.parametrize("text", ["", "nothing", "://h", "dubbo://h:x/s", "dubbo://h:99999/s"])
def test_what_is_no_url(text):
    with pytest.raises(UrlError):
        ServiceUrl.parse(text)


@pytest.mark.parametrize("parameters", [{"a": "1&b=2"}, {"a": "x\ny"}, {"": "x"}, {"a=b": "x"}, {"a": 1}])
def test_parameters_that_would_be_read_as_others_are_refused(parameters):
    with pytest.raises(UrlError):
        provider(**parameters)


# --- the consumer's list ------------------------------------------------------------------------------------------------------


def test_a_consumers_list_follows_the_registry_and_leaves_out_who_fails_until_the_next_notification(registry, registries):
    offering = registries()
    offering.register(provider(1))
    offering.register(provider(2))
    with Directory(registry, consumer()) as directory:
        assert directory.urls() == [provider(1), provider(2)]
        assert not directory.stale
        directory.report(provider(1))
        assert directory.urls() == [provider(2)]
        offering.register(provider(3))
        wait_for(lambda: directory.urls() == [provider(1), provider(2), provider(3)])
    offering.register(provider(4))
    assert directory.urls() == [provider(1), provider(2), provider(3)]
