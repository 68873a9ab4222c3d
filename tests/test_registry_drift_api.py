"""Edits by others over REST and in the console; no ZooKeeper takes part."""

import pytest
from django.test import Client
from django.urls import reverse
from registry_world import put_cluster, put_topic

from core.audit.models import AuditEntry
from registry.models import Drift, DriftPolicy, Publication

pytestmark = pytest.mark.django_db
THEIRS = b"bootAddr=evil\\:1\nbrokerType=kafka\nteam=blue\n"


@pytest.fixture
def waiting():
    """An edit of a cluster's node that waits for a person."""
    cluster = put_cluster()
    Publication.objects.filter(pk=cluster.pk).update(published_generation=1, drifted_at="2026-11-22T00:00Z", held_at="2026-11-22T00:00Z")
    return Drift.objects.create(
        path=cluster.path, edit="changed", incident="2a@1", mzxid=42, data=THEIRS, size=len(THEIRS), wanted=cluster.data,
        wanted_generation=1, outcome="waiting",
    )  # fmt: skip


def test_an_edit_is_shown_with_its_difference_and_nobody_is_made_up_for_it(api, waiting):
    [row] = api("GET", "drift?settled=false").body["results"]
    assert (row["path"], row["edit"], row["outcome"], row["session"], row["mzxid"]) == (waiting.path, "changed", "waiting", None, 42)
    assert "found" not in row
    body = api("GET", f"drift/{waiting.pk}").body
    assert body["found"] == THEIRS.decode()
    assert {d["key"]: (d["wanted"], d["found"], d["kind"]) for d in body["differences"]} == {
        "bootAddr": ("10.0.0.1:9092", "evil:1", "changed"),
        "brokerType": ("kafka", "kafka", "same"),
        "serverIps": ("", None, "missing"),
        "mqadmin.generation": ("1", None, "missing"),
        "team": (None, "blue", "added"),
    }
    publication = api("GET", f"publications/{Publication.objects.get(path=waiting.path).pk}").body
    assert (publication["state"], publication["waiting_drift"], publication["foreign_content"]) == ("held", waiting.pk, THEIRS.decode())


def test_a_repair_over_rest_is_audited_and_done_once(api, waiting):
    answer = api("POST", f"drift/{waiting.pk}/repair", {"reason": "was a mistake"})
    assert (answer.status_code, answer.body["outcome"], answer.body["decided_by"]) == (200, "open", "alice")
    row = Publication.objects.get(path=waiting.path)
    assert (row.state, row.overrules) == ("drifted", "2a@1")
    entry = AuditEntry.objects.latest("id")
    assert (entry.action, entry.kind, entry.name, entry.reason) == ("repair", "publication", waiting.path, "was a mistake")
    assert (entry.before["bootAddr"], entry.after["bootAddr"]) == ("evil:1", "10.0.0.1:9092")
    again = api("POST", f"drift/{waiting.pk}/repair", {"reason": "was a mistake"})
    assert (again.status_code, again.body["code"]) == (409, "drift_settled")
    assert api("POST", f"drift/{waiting.pk}/repair", {}).status_code == 400


def test_a_policy_is_changed_under_its_version_and_says_how_many_wait(api, waiting):
    DriftPolicy.objects.filter(name="clusters").update(policy="alert")
    rows = {row["name"]: row for row in api("GET", "drift-policies").body["results"]}
    assert {name: row["root"] for name, row in rows.items()} == {
        "clusters": "/zms/cluster", "topics": "/zms/topic", "consumer-groups": "/zms/consumergroup", "shadow-groups": "/zpt",
    }  # fmt: skip
    assert (rows["clusters"]["policy"], rows["clusters"]["waiting"], rows["topics"]["waiting"]) == ("alert", 1, 0)
    change = {"policy": "repair", "reason": "we trust ours"}
    assert api("PATCH", "drift-policies/clusters", change).status_code == 428
    answer = api.now("PATCH", "drift-policies/clusters", change)
    assert (answer.status_code, answer.body["policy"], answer.body["version"], answer.body["waiting"]) == (200, "repair", 2, 0)
    assert Publication.objects.get(path=waiting.path).state == "drifted"
    assert api("PATCH", "drift-policies/clusters", change, **{"If-Match": '"1"'}).status_code == 412
    assert api.now("PATCH", "drift-policies/clusters", {"policy": "ignore", "reason": "x"}).status_code == 400


def test_who_may_not_decide_may_still_not_look(api_without_rights, waiting):
    assert api_without_rights("GET", "drift").status_code == 403
    assert api_without_rights("POST", f"drift/{waiting.pk}/repair", {"reason": "x"}).status_code == 403
    assert api_without_rights("GET", "drift-policies").status_code == 403


def test_a_person_decides_in_the_console(admin_person, waiting):
    client = Client()
    client.force_login(admin_person, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get(reverse("admin:registry_drift", args=[waiting.pk])).content.decode()
    assert "evil:1" in page
    assert "It waits for a person." in page
    publication = Publication.objects.get(path=waiting.path)
    page = client.get(reverse("admin:registry_publication", args=[publication.pk])).content.decode()
    assert "Somebody else edited the node" in page
    put_cluster(address="ours")
    page = client.get(reverse("admin:registry_publication", args=[publication.pk])).content.decode()
    assert "A later change of ours waits with it." in page
    repair = reverse("admin:registry_drift_repair", args=[waiting.pk])
    assert client.post(repair, {"reason": ""}).status_code == 200
    assert client.post(repair, {"reason": "was a mistake"}).status_code == 302
    assert client.get(repair).status_code == 409
    policy = reverse("admin:registry_drift_policy", args=["topics"])
    seen = client.get(policy).context["seen"]
    assert client.post(policy, {"policy": "alert", "reason": "we look first", "seen": seen}).status_code == 302
    assert DriftPolicy.objects.get(name="topics").policy == "alert"


def test_lists_need_a_constant_number_of_statements(api, django_assert_max_num_queries):
    for number in range(20):
        topic = put_topic(f"t{number}")
        Drift.objects.create(path=topic.path, edit="changed", incident="x", data=b"x" * 1000, outcome="repaired")
    with django_assert_max_num_queries(6):
        assert len(api("GET", "drift").body["results"]) == 20
    with django_assert_max_num_queries(6):
        assert len(api("GET", "drift-policies").body["results"]) == 4
