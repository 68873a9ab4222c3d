"""Idempotency-Key: the same request is done once, whatever happens in between; and nothing is kept that should not be."""

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import Api, token_for
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts.models import Application
from core.api import idempotency
from core.models import IdempotencyKey

CHECKOUT = Path(__file__).resolve().parent.parent


def post(api, key, body, path="applications"):
    return api("POST", path, body, **{"Idempotency-Key": key})


@pytest.mark.django_db
def test_the_same_request_gets_the_first_answer(api):
    first, again = post(api, "k1", {"name": "shop"}), post(api, "k1", {"name": "shop"})
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert (again.headers["Location"], again.headers["ETag"]) == (first.headers["Location"], '"1"')
    assert not first.has_header("Idempotency-Replayed")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert Application.objects.count() == 1


@pytest.mark.django_db
def test_a_key_stands_for_one_request(api, topic_fields):
    post(api, "k1", {"name": "shop"})
    for body, path in [({"name": "shop2"}, "applications"), ({"name": "shop"}, "topics")]:
        refused = post(api, "k1", body, path)
        assert (refused.status_code, refused.body["code"]) == (422, "idempotency_key_reused")


@pytest.mark.django_db
def test_a_key_belongs_to_its_credential(api, api2):
    assert post(api, "k1", {"name": "shop"}).status_code == 201
    assert post(api2, "k1", {"name": "shop2"}).status_code == 201


@pytest.mark.django_db
def test_of_an_error_nothing_is_kept(api):
    assert post(api, "k1", {"name": "a b"}).body["code"] == "invalid_name"
    assert post(api, "k1", {"name": "shop"}).status_code == 201


@pytest.mark.django_db
@pytest.mark.parametrize("key", ["", " ", "a b", "k" * 256, "schlüssel"])
def test_it_refuses_keys_that_are_none(api, key):
    assert post(api, key, {"name": "shop"}).body["code"] == "invalid_idempotency_key"


@pytest.mark.django_db
def test_it_refuses_a_key_of_a_dry_run(api):
    answer = post(api, "k1", {"name": "shop"}, "applications?dry_run=true")
    assert (answer.status_code, answer.body["code"]) == (400, "idempotency_key_in_dry_run")


@pytest.mark.django_db
def test_a_key_is_kept_for_a_day_and_cleaned_up_in_chunks(api):
    for i in range(5):
        post(api, f"k{i}", {"name": f"shop{i}"})
    IdempotencyKey.objects.exclude(key="k4").update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    assert post(api, "k0", {"name": "another"}).status_code == 201
    assert [idempotency.clean(limit=2), idempotency.clean(limit=2)] == [2, 1]
    assert sorted(IdempotencyKey.objects.values_list("key", flat=True)) == ["k0", "k4"]


@pytest.mark.django_db
def test_secrets_are_not_kept(admin_person):
    from rest_framework.response import Response
    from rest_framework.test import APIRequestFactory, force_authenticate

    from core.api.conventions import View

    class Secrets(View):
        permissions_by_action = {"post": ""}
        secret_fields = frozenset({"secret"})

        def post(self, _request):
            return Response({"id": 1, "token": {"secret": "s3cr3t"}}, status=201)

    def ask():
        request = APIRequestFactory().post("/x", {}, format="json", HTTP_IDEMPOTENCY_KEY="k1")
        force_authenticate(request, admin_person)
        answer = Secrets.as_view()(request)
        return json.loads(answer.render().content if hasattr(answer, "render") else answer.content)

    assert ask() == {"id": 1, "token": {"secret": "s3cr3t"}}
    assert ask() == {"id": 1, "token": {"secret": None}}
    assert "s3cr3t" not in IdempotencyKey.objects.get().response


@pytest.mark.django_db(transaction=True)
def test_of_two_at_once_one_is_told_to_wait(admin_person, monkeypatch):
    secret, keep = token_for(admin_person), idempotency.keep
    inside, go_on, answers = threading.Event(), threading.Event(), []

    def slowly(**kwargs):
        inside.set()
        assert go_on.wait(60)
        keep(**kwargs)

    def first():
        try:
            answers.append(post(Api(Client(), secret), "k1", {"name": "shop"}))
        finally:
            connection.close()

    monkeypatch.setattr(idempotency, "keep", slowly)
    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert inside.wait(60)
        refused = post(Api(Client(), secret), "k1", {"name": "shop"})
        assert (refused.status_code, refused.body["code"], refused.headers["Retry-After"]) == (409, "idempotency_in_flight", "1")
    finally:
        go_on.set()
        thread.join(60)
    assert answers[0].status_code == 201
    assert post(Api(Client(), secret), "k1", {"name": "shop"}).headers["Idempotency-Replayed"] == "true"
    assert Application.objects.count() == 1


DIES = """
import os, signal, sys
import django
django.setup()
from django.test import Client
from core.api import idempotency
idempotency.keep = lambda **kwargs: os.kill(os.getpid(), signal.SIGKILL)  # after the effect, before the commit
Client().post("/api/v1/applications", '{"name": "shop"}', content_type="application/json",
              headers={"Authorization": "Token " + sys.argv[1], "Idempotency-Key": "k1"})
"""


@pytest.mark.django_db(transaction=True)
def test_a_crash_leaves_neither_the_effect_nor_the_key(admin_person):
    secret, server = token_for(admin_person), connection.settings_dict
    login = f"{server['USER']}:{server['PASSWORD']}" if server["PASSWORD"] else server["USER"]
    environment = {
        **os.environ, "DJANGO_SETTINGS_MODULE": "mqadmin.settings", "MQADMIN_ALLOWED_HOSTS": "testserver", "MQADMIN_HTTPS": "false",
        "DATABASE_URL": f"postgres://{login}@{server['HOST']}:{server['PORT']}/{server['NAME']}",
    }  # fmt: skip
    died = subprocess.run([sys.executable, "-c", DIES, secret], cwd=CHECKOUT, env=environment, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL
    assert (Application.objects.count(), IdempotencyKey.objects.count()) == (0, 0)
    again = post(Api(Client(), secret), "k1", {"name": "shop"})
    assert (again.status_code, again.has_header("Idempotency-Replayed")) == (201, False)
