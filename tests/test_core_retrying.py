"""Victims of deadlocks: what was one transaction is begun again, within one it is not; in the end the caller is told."""

from typing import ClassVar

import pytest
from django.db import OperationalError, connection, transaction
from psycopg import errors
from rest_framework.response import Response
from rest_framework.test import APIRequestFactory, force_authenticate

from accounts.models import Application
from core import retrying
from core.api.conventions import View
from core.api.problems import to_problem


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(retrying, "PAUSE", 0)


@pytest.mark.django_db(transaction=True)
def test_within_a_transaction_and_for_other_errors_nothing_is_begun_again(db):
    calls = []

    def victim(cause):
        calls.append(cause)
        raise OperationalError("no luck") from cause

    with pytest.raises(OperationalError), transaction.atomic():
        retrying.again(lambda: victim(errors.DeadlockDetected()))
    with pytest.raises(OperationalError):
        retrying.again(lambda: victim(errors.QueryCanceled()))
    assert len(calls) == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("headers", [{}, {"HTTP_IDEMPOTENCY_KEY": "k1"}, {"HTTP_IF_MATCH": '"1"'}])
def test_a_write_that_was_the_victim_of_a_deadlock_is_begun_again_and_done_once(admin_person, headers):
    calls = []

    class Unlucky(View):
        permissions_by_action: ClassVar[dict[str, str]] = {"post": ""}

        def post(self, _request):
            self.check_version(1)
            Application.objects.create(name=f"shop-{len(calls)}", owner=admin_person)
            calls.append(connection.in_atomic_block)
            if len(calls) < 3:
                raise OperationalError("deadlock detected") from errors.DeadlockDetected()
            return Response({"id": 1}, status=201)

    request = APIRequestFactory().post("/x", {}, format="json", **headers)
    force_authenticate(request, admin_person)
    assert Unlucky.as_view()(request).status_code == 201
    assert (calls, Application.objects.get().name) == ([True] * 3, "shop-2")


@pytest.mark.django_db(transaction=True)
def test_who_is_the_victim_again_and_again_is_told_to_come_back(admin_person):
    class Unlucky(View):
        permissions_by_action: ClassVar[dict[str, str]] = {"post": ""}

        def post(self, _request):
            raise OperationalError("deadlock detected") from errors.DeadlockDetected()

    request = APIRequestFactory().post("/x", {}, format="json")
    force_authenticate(request, admin_person)
    answer = Unlucky.as_view()(request)
    assert (answer.status_code, answer.data["code"], answer["Retry-After"]) == (503, "try_again", "1")


@pytest.mark.django_db
def test_what_is_too_much_for_the_database_is_not_told_as_a_database_that_is_away(db):
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE wide (text text) ON COMMIT DROP; CREATE INDEX ON wide (text)")
    with connection.cursor() as cursor, pytest.raises(OperationalError) as caught:
        cursor.execute("INSERT INTO wide SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) n")
    assert to_problem(caught.value).code == "internal"
    assert to_problem(OperationalError("the connection is lost")).code == "database_unavailable"
