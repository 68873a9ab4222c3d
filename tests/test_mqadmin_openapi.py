"""The schema, the page that shows it, and a client that is generated from it and does real work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from browser import Watched, chromium
from conftest import token_for

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def schema(django_db_setup):
    """What is served at /api/schema/; complaints of drf-spectacular are failures."""
    from drf_spectacular import drainage
    from drf_spectacular.generators import SchemaGenerator

    drainage.GENERATOR_STATS.reset()
    found = SchemaGenerator().get_schema(public=True)
    complaints = [*drainage.GENERATOR_STATS._warn_cache, *drainage.GENERATOR_STATS._error_cache]
    assert not complaints, complaints
    return json.loads(json.dumps(found))


def operations(schema):
    return [(path, method, op) for path, ways in schema["paths"].items() for method, op in ways.items() if method in METHODS]


def controlled(schema):
    return [(path, method, op) for path, method, op in operations(schema) if "data plane" not in op["tags"]]


def names(schema, operation):
    found = [p if "$ref" not in p else schema["components"]["parameters"][p["$ref"].rpartition("/")[2]] for p in operation["parameters"]]
    return {p["name"] for p in found}


def test_the_schema_is_valid(schema):
    from openapi_spec_validator import validate

    validate(schema)


def test_every_operation_documents_what_it_may_answer(schema):
    for path, method, op in operations(schema):
        at, answers = f"{method} {path}", set(op["responses"])
        assert answers >= {"400", "401", "403", "404", "429", "500", "503"}, at
        assert all("X-Request-ID" in answer["headers"] for answer in op["responses"].values()), at
        assert {code for code in answers if code.startswith("2")}, at
        assert "Retry-After" in op["responses"]["429"]["headers"], at
        for code in answers:
            if code >= "400":
                assert list(op["responses"][code]["content"]) == ["application/problem+json"], at
        if method != "get":
            assert answers >= {"409", "411", "413", "415"}, at


def test_every_write_of_the_control_plane_takes_what_all_take(schema):
    for path, method, op in controlled(schema):
        if method == "get":
            continue
        at, takes, answers = f"{method} {path}", names(schema, op), set(op["responses"])
        assert "dry_run" in takes, at
        assert ("Idempotency-Key" in takes) == (method == "post"), at
        assert json.dumps(op["responses"]["200"]).count("DryRun") >= 1, at
        if method == "post":
            assert "422" in answers, at
        if "If-Match" in takes:
            assert "412" in answers, at
        if method in {"put", "patch", "delete"} and "If-Match" in takes:
            assert "428" in answers, at
        if method == "delete":
            assert "change_message" in takes, at
        else:
            body = op["requestBody"]["content"]["application/json"]["schema"]
            component = schema["components"]["schemas"][body["$ref"].rpartition("/")[2]]
            assert "change_message" in component["properties"], at


def test_versioned_resources_say_so(schema):
    for resource in ("topics", "consumer-groups", "clusters", "applications"):
        ways = schema["paths"][f"/api/v1/{resource}/{{name}}"]
        assert ways["get"]["responses"]["304"]["headers"]["ETag"]
        assert "ETag" in ways["get"]["responses"]["200"]["headers"]
        assert "ETag" in ways["put"]["responses"]["201"]["headers"]
        assert "fields" in names(schema, ways["get"])


def test_the_schema_needs_a_login_and_its_errors_are_problems(api, client):
    for accept in ("*/*", "application/yaml", "application/vnd.oai.openapi"):
        refused = client.get("/api/schema/", headers={"Accept": accept})
        assert (refused.status_code, refused["Content-Type"]) == (401, "application/problem+json")
        assert refused.json()["code"] == "not_authenticated"
    served = client.get("/api/schema/?format=json", headers=api.headers)
    assert "/api/v1/topics/{name}/approval" in served.json()["paths"]


@pytest.mark.django_db(transaction=True)
def test_the_page_of_the_api_works_under_the_policy_of_all_pages(live_server, client, admin_person, tmp_path):
    assert client.get("/api/docs/").status_code == 302
    with chromium() as browser:
        page = Watched(browser, live_server.url)
        page.login("alice", "correct horse battery")
        page.page.set_default_timeout(60_000)
        page.page.goto("/api/docs/")
        page.page.locator("#operations-tag-topics").click()
        page.page.locator("#operations-topics-topics_list button.opblock-summary-control").click()
        page.page.locator("#operations-topics-topics_list .try-out__btn").click()
        page.page.locator("#operations-topics-topics_list button.execute").click()
        page.page.locator("#operations-topics-topics_list .live-responses-table >> text=results").first.wait_for()
        page.page.screenshot(path=Path(os.environ.get("MQADMIN_SCREENSHOTS") or tmp_path) / "api-docs.png")
        assert page.errors == []


@pytest.mark.django_db(transaction=True)
def test_a_client_that_is_generated_from_it_is_typed_and_works(schema, live_server, admin_person, tmp_path, monkeypatch):
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    (tmp_path / "config.yml").write_text("post_hooks: []\n")
    package = tmp_path / "client" / "mqadmin_client"
    package.parent.mkdir()
    tool = [sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning", "--meta", "none"]
    made = subprocess.run(
        [*tool, "--path", tmp_path / "schema.json", "--config", tmp_path / "config.yml", "--output-path", package],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    (tmp_path / "mypy.ini").write_text("[mypy]\nfollow_imports = silent\n")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", tmp_path / "mypy.ini", "--cache-dir", tmp_path / "cache", package],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout[-4000:]

    monkeypatch.syspath_prepend(package.parent)
    from mqadmin_client import AuthenticatedClient
    from mqadmin_client.api.applications import applications_create, applications_partial_update
    from mqadmin_client.api.topics import topics_list
    from mqadmin_client.models import Application, NewApplicationRequest, PatchedApplicationChangeRequest, Problem

    client = AuthenticatedClient(base_url=live_server.url, token=token_for(admin_person), prefix="Token")
    new = NewApplicationRequest(name="shop", description="sells", change_message="by the generated client")
    first = applications_create.sync_detailed(client=client, body=new, idempotency_key="k1")
    again = applications_create.sync_detailed(client=client, body=new, idempotency_key="k1")
    assert (first.status_code, isinstance(first.parsed, Application), first.parsed) == (201, True, again.parsed)
    assert again.headers["Idempotency-Replayed"] == "true"
    change = PatchedApplicationChangeRequest(description="sells well")
    stale = applications_partial_update.sync(client=client, name="shop", body=change, if_match='"7"')
    assert isinstance(stale, Problem)
    assert stale.code == "stale"
    rehearsed = applications_partial_update.sync(client=client, name="shop", body=change, if_match='"1"', dry_run=True)
    assert rehearsed.result["description"] == "sells well"
    assert topics_list.sync(client=client).results == []
