"""The service registries over REST and in the console, and who sees what of them."""

import pytest
from conftest import Api, token_for
from console_world import registered
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import Application, User
from accounts.rolesync import group_of, sync_roles
from registry.discovery_models import Registration, Service
from registry.models import RegistrarHeartbeat

pytestmark = pytest.mark.django_db


@pytest.fixture
def stock():
    return registered("com.shop.Stock", app="stock-service")[0]


def browser(person):
    client = Client()
    client.force_login(person)
    return client


def page(client, name, *args, query=""):
    response = client.get(reverse(f"admin:{name}", args=args) + query)
    assert response.status_code == 200, response.content[:300]
    return response.content.decode()


def test_a_service_is_read_with_its_registrations_and_history(api, stock):
    [row] = api("GET", "services?layout=dubbo&name=com.shop.Stock").body["results"]
    assert (row["id"], row["online"], row["providers"], row["leader_token"]) == (stock.pk, True, 1, None)
    detail = api("GET", f"services/{stock.pk}").body
    assert (detail["job"], detail["application"], [event["kind"] for event in detail["events"]]) == (None, None, ["registered"])
    rows = api("GET", f"registrations?service={stock.pk}&online=true").body["results"]
    assert [(row["address"], row["service_name"], row["departure"]) for row in rows] == [("10.0.0.1:20880", "com.shop.Stock", "")]
    rows = api("GET", "registrations?departure=lost&app=stock-service").body["results"]
    assert [(row["address"], row["polite"]) for row in rows] == [("10.0.0.2:20880", True)]


def test_services_are_found_by_what_is_wrong_with_them(api, stock):
    registered("com.shop.Fine", app="a")
    Registration.objects.filter(service__name="com.shop.Fine", online=False).delete()
    wanted, _registration, _worker = registered("com.shop.Wanted", app="b", number=9, providers=0, consumers=2, online=False)
    Registration.objects.filter(service=wanted).delete()

    def names(query):
        return [row["name"] for row in api("GET", f"services?{query}").body["results"]]

    assert names("wanted=true") == ["com.shop.Wanted"]
    assert names("deserted=true") == ["com.shop.Stock"]
    assert names("deserted=false") == ["com.shop.Fine", "com.shop.Wanted"]
    assert names("app=stock-service") == ["com.shop.Stock"]
    assert names("online=false") == ["com.shop.Wanted"]
    Registration.objects.filter(service=stock).update(address="10.0.0.1:20880")  # the one that was lost is back
    assert names("deserted=true") == []


def test_a_job_is_read_with_its_leader_and_shards(api):
    shard = {"item": "0", "state": "interrupted", "instance": "a", "running": "", "failover": ""}
    details = {"config": "{}", "candidates": 2, "resharding": False, "servers": [{"address": "a", "enabled": True}], "shards": [shard]}
    job = registered("nightly", app="", layout="jobs", leader="10.0.0.1@-@7", leader_token=99, details=details)[0]
    found = api("GET", f"services/{job.pk}").body
    assert (found["leader"], found["leader_token"], found["job"]) == ("10.0.0.1@-@7", 99, details)
    text = page(browser(User.objects.get(username="alice")), "registry_service", job.pk)
    assert "Interrupted" in text
    assert "10.0.0.1@-@7" in text


def test_worker_ids_given_twice_are_found(api):
    for number, name in [(1, "a"), (2, "b"), (2, "c")]:
        registered(f"com.{name}", app=name, number=number)
    assert [row["app"] for row in api("GET", "worker-ids?doubled=true").body["results"]] == ["b", "c"]
    assert [row["app"] for row in api("GET", "worker-ids?doubled=false").body["results"]] == ["a"]
    text = page(browser(User.objects.get(username="alice")), "registry_worker_ids")
    assert text.count("given twice") == 2


def test_a_developer_sees_what_an_own_application_provides_or_uses_with_all_who_do(stock):
    sync_roles()
    person = User.objects.create_user("dev", is_staff=True)
    person.groups.add(group_of("developer"))
    Application.objects.create(name="cart", owner=person)
    Registration.objects.create(service=stock, kind="consumer", key="k", znode="k", name="n", app="cart", czxid=1, mzxid=1)
    other = registered("com.shop.Secret", app="ledger", number=5)[0]
    registered("cart", app="cart", layout="messages", number=6, role="producer")
    job = registered("cart-nightly", app="cart", layout="jobs", number=7)[0]
    others = registered("ledger-nightly", app="ledger", layout="jobs", number=8)[0]
    ask = Api(Client(), token_for(person))
    found = {row["name"]: row["apps"] for row in ask("GET", "services").body["results"]}
    assert found == {"com.shop.Stock": ["stock-service"], "cart-nightly": ["cart"], "cart": ["cart"]}
    assert ask("GET", f"services/{job.pk}").body["apps"] == ["cart"]
    assert ask("GET", f"services/{others.pk}").status_code == 404
    assert {row["app"] for row in ask("GET", "registrations").body["results"]} == {"stock-service", "cart"}
    assert {row["app"] for row in ask("GET", "worker-ids").body["results"]} == {"cart"}
    assert ask("GET", f"services/{other.pk}").status_code == 404
    client = browser(person)
    assert client.get(reverse("admin:registry_service", args=[other.pk])).status_code == 404
    jobs = page(client, "registry_jobs")
    assert ("cart-nightly" in jobs, "ledger" in jobs) == (True, False)
    assert client.get(reverse("admin:registry_service", args=[others.pk])).status_code == 404
    assert "Secret" not in page(client, "registry_services") + page(client, "registry_registrations", query="?view=all")


def test_without_the_permission_nothing_is_shown(api_without_rights, stock):
    for address in ("services", f"services/{stock.pk}", "registrations", "worker-ids"):
        assert api_without_rights("GET", address).status_code == 403, address


def test_who_left_without_a_goodbye_stands_on_the_pages(admin_person, stock):
    client = browser(admin_person)
    services = page(client, "registry_services", query="?view=deserted")
    assert "com.shop.Stock" in services
    assert f"view=lost&amp;service={stock.pk}" in services
    assert "without a goodbye" in page(client, "registry_registrations", query=f"?view=lost&service={stock.pk}")
    assert "without a goodbye" in page(client, "registry_service", stock.pk)


def test_it_says_when_nobody_watches(admin_person, stock):
    client = browser(admin_person)
    notice = "No registrar is watching the service registries now"
    assert notice in page(client, "registry_services")
    row = RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live", discovery="comparing")
    assert notice in page(client, "registry_service", stock.pk)
    RegistrarHeartbeat.objects.filter(pk=row.pk).update(discovery="live", beat_at=timezone.now())
    assert notice not in page(client, "registry_services") + page(client, "registry_service", stock.pk)


def test_it_says_how_many_services_there_is_no_room_for(admin_person, stock):
    client = browser(admin_person)
    row = RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live", discovery="live")
    for refused, said in ((0, ""), (1, "1 more service below /dubbo is"), (70, "70 more services below /dubbo are")):
        RegistrarHeartbeat.objects.filter(pk=row.pk).update(unrecorded={"/dubbo": refused}, beat_at=timezone.now())
        for shown in (page(client, "registry_services"), page(client, "registry_service", stock.pk)):
            assert said in shown
            assert ("20,000" in shown) == bool(said)
        gauges = client.get("/metrics").content.decode()
        assert f'mqadmin_services_unrecorded{{root="/dubbo"}} {refused}.0' in gauges


def test_services_are_found_from_everywhere(admin_person, stock):
    found = browser(admin_person).get(reverse("admin:find") + "?q=shop.Stock").content.decode()
    assert reverse("admin:registry_service", args=[stock.pk]) in found


def test_a_page_of_many_services_costs_as_many_statements_as_one_of_few(admin_person):
    client, counts = browser(admin_person), []
    for begin, end in ((0, 2), (2, 60)):
        for number in range(begin, end):
            registered(f"com.shop.Service{number}", app=f"app{number}", number=number)
        page(client, "registry_services")  # what is made once per process is made
        for name in ("registry_services", "registry_registrations", "registry_worker_ids"):
            with CaptureQueriesContext(connection) as seen:
                page(client, name)
            counts.append(len(seen))
    assert counts[:3] == counts[3:]
    assert Service.objects.count() == 60
