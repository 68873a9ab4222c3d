"""Probes, metrics, schema, and what every answer carries."""

import threading

import pytest
from django.db import connection
from django.db.models.functions import Now

from mqadmin import health
from registry.models import RegistrarHeartbeat

pytestmark = pytest.mark.django_db(transaction=True)


def test_healthz_needs_nothing(client):
    assert client.get("/healthz").json() == {"status": "ok"}


def test_readyz_names_each_part_and_says_which_is_missing(client):
    answer = client.get("/readyz")
    body = answer.json()
    assert answer.status_code == 503
    assert set(body["parts"]) == {"postgres", "zookeeper", "celery_broker", "registrar", "storekeeper"}
    assert body["parts"]["postgres"] == "ok"
    assert "registrar" in body["missing"]
    assert body["parts"]["zookeeper"].startswith("unknown")


def test_a_part_that_hangs_takes_no_thread_from_the_others(client, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(health, "LIMIT", 0.05)
    monkeypatch.setitem(health.PARTS, "zookeeper", lambda: None if release.wait(30) else "hung")
    try:
        for _question in range(20):
            assert client.get("/readyz").json()["parts"]["zookeeper"].startswith("no answer")
        monkeypatch.setattr(health, "LIMIT", 5.0)
        monkeypatch.delitem(health.PARTS, "zookeeper")
        assert client.get("/readyz").json()["parts"]["postgres"] == "ok"
    finally:
        release.set()


@pytest.fixture
def horizon():
    """`horizon(beat, held)`: a horizon that a pull has just moved, a storekeeper that was seen `beat` seconds ago (None: never), and
    messages of `held` seconds that are not closed; afterwards as before."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT closed_id, at FROM mq_horizon")
        before = cursor.fetchone()

        def stand(beat, held):
            cursor.execute(
                "UPDATE mq_horizon SET at = clock_timestamp(), closed_id = (SELECT last_value FROM mq_id_seq) - (%s::bigint << 20)", [held]
            )
            cursor.execute("DELETE FROM mq_storekeeper")
            if beat is not None:
                cursor.execute("INSERT INTO mq_storekeeper (beat_at) VALUES (clock_timestamp() - make_interval(secs => %s))", [beat])

        yield stand
        cursor.execute("DELETE FROM mq_storekeeper")
        cursor.execute("UPDATE mq_horizon SET closed_id = %s, at = %s", before)


@pytest.mark.parametrize(
    ("state", "said", "shown"),
    [
        ((0, 0), "ok", ""),
        ((None, 0), "no storekeeper has ever run", "The storekeeper is away"),
        ((60, 0), "last sign of life 60 s ago", "The storekeeper is away"),
        ((0, 60), "messages of 60 s are held back", "New messages are held back"),
    ],
)
def test_readiness_and_overview_judge_by_the_storekeepers_own_beat_and_by_what_is_held_back(  # noqa: PLR0917 - a table
    client, admin_person, horizon, state, said, shown
):
    """A pull that ticks by itself has moved the horizon just now."""
    horizon(*state)
    assert client.get("/readyz").json()["parts"]["storekeeper"].startswith(said)
    client.force_login(admin_person)
    page = client.get("/admin/").content.decode()
    for words in ("The storekeeper is away", "New messages are held back"):
        assert (words in page) == (words == shown)


def test_metrics_say_that_an_open_transaction_holds_messages_back(client, horizon):
    horizon(0, 60)
    gauge = next(line for line in client.get("/metrics").content.decode().splitlines() if line.startswith("mqadmin_horizon_age_seconds "))
    assert float(gauge.split()[1]) == 60


def test_metrics_are_in_prometheus_format(client):
    from prometheus_client.parser import text_string_to_metric_families

    answer = client.get("/metrics")
    names = {family.name for family in text_string_to_metric_families(answer.content.decode())}
    assert {"mqadmin_topics", "mqadmin_publications_dirty", "mqadmin_horizon_age_seconds"} <= names


def test_instances_online_are_counted_down_to_none_while_somebody_watches_and_unknown_otherwise(client):
    def told():
        return [line for line in client.get("/metrics").content.decode().splitlines() if line.startswith("mqadmin_instances_online{")]

    RegistrarHeartbeat.objects.all().delete()
    assert told() == []
    RegistrarHeartbeat.objects.create(host="h", pid=1, zookeeper="connected", watch="live", beat_at=Now())
    roles = ("consumer", "producer", "shadow")
    assert sorted(line.split()[0] for line in told()) == [f'mqadmin_instances_online{{role="{role}"}}' for role in roles]
    assert {line.split()[1] for line in told()} == {"0.0"}


def test_the_schema_is_valid_openapi_and_needs_a_login(api, client):
    import yaml
    from openapi_spec_validator import validate

    assert client.get("/api/schema/").status_code == 401
    schema = yaml.safe_load(client.get("/api/schema/", headers=api.headers).content)
    validate(schema)
    assert "/api/v1/topics/{name}/approval" in schema["paths"]


def test_every_answer_carries_a_request_id_and_a_strict_policy(client):
    refused = client.get("/api/v1/me")
    assert refused["X-Request-ID"] == refused.json()["request_id"] != ""
    answer = client.get("/admin/login/")
    policy = answer["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_an_unknown_address_of_the_api_is_a_problem_document(client):
    answer = client.get("/api/v2/none")
    assert (answer.status_code, answer["Content-Type"]) == (404, "application/problem+json")


def test_create_people_writes_credentials_once(tmp_path, client):
    import stat

    from django.core.management import call_command

    from accounts.models import ApiToken, User

    file = tmp_path / "credentials.env"
    call_command("create_people", file=file, url="http://127.0.0.1:9")
    text = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert User.objects.get(username="admin").check_password(values["MQADMIN_ADMIN_PASSWORD"])
    assert not ApiToken.objects.filter(digest__in=[values["MQADMIN_ADMIN_TOKEN"]]).exists()
    assert client.get("/api/v1/topics", headers={"Authorization": f"Token {values['MQADMIN_OPERATOR_TOKEN']}"}).status_code == 200
    call_command("create_people", file=file, url="http://127.0.0.1:9")
    assert file.read_text() == text
