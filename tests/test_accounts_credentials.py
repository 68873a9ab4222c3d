"""Tokens with scopes, keys of applications with signatures, and limits of rates."""

import secrets
from datetime import timedelta
from time import time

import pytest
from conftest import Api, token_for
from console_world import group, make_people, topic
from django.conf import settings
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts import authentication, limits, signing, tasks
from accounts.models import ApiToken, Application, ApplicationKey, KeyNonce, User
from accounts.roles import DEVELOPER
from accounts.rolesync import group_of
from core.audit.models import AuditEntry

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def forgetful():
    """Nothing of one test is known to the next."""
    authentication._tokens.clear()
    authentication._keys.clear()
    limits.reset()


def in_days(days):
    return (timezone.now() + timedelta(days=days)).isoformat()


def scoped(person, *scopes):
    _token, secret = ApiToken.issue(user=person, name="t", expires_at=timezone.now() + timedelta(days=2), scopes=list(scopes))
    return Api(Client(), secret)


def test_a_token_is_made_shown_once_listed_and_revoked(api, admin_person):
    made = api("post", "tokens", {"name": "ci", "scopes": ["read"], "expires_at": in_days(0.02)})
    assert made.status_code == 201, made.body
    secret = made.body["secret"]
    assert Api(Client(), secret)("get", "me").body["scopes"] == ["read"]
    listed = api("get", "tokens").body["results"]
    assert [row["name"] for row in listed] == ["ci", "test"]
    assert secret not in api("get", "tokens").content.decode()
    entry = AuditEntry.objects.get(kind="API token", action="create")
    assert secret not in str((entry.before, entry.after))
    assert entry.after["scopes"] == ["read"]
    assert api("delete", f"tokens/{made.body['id']}").status_code == 204
    assert Api(Client(), secret)("get", "me").status_code == 401
    assert AuditEntry.objects.filter(kind="API token", action="revoke").count() == 1


def test_a_secret_is_not_kept_with_an_idempotency_key(api):
    body = {"name": "ci", "scopes": ["read"], "expires_at": in_days(0.02)}
    first, again = (api("post", "tokens", body, **{"Idempotency-Key": "k1"}) for _ in range(2))
    assert first.body["secret"]
    assert again.body["id"] == first.body["id"]
    assert again.body["secret"] is None


@pytest.mark.parametrize(
    "changes",
    [{"expires_at": in_days(400)}, {"expires_at": in_days(-1)}, {"scopes": []}, {"scopes": ["all"]}, {"name": " "}, {"user": "bob"}],
)
def test_a_token_is_bounded(api, changes):
    assert api("post", "tokens", {"name": "ci", "scopes": ["read"], "expires_at": in_days(1), **changes}).status_code == 400


def test_a_token_makes_no_wider_one_and_takes_its_own_along(admin_person):
    narrow = scoped(admin_person, "read", "write")
    wider = narrow("post", "tokens", {"name": "x", "scopes": ["read", "approve"], "expires_at": in_days(1)})
    assert (wider.status_code, wider.body["code"]) == (403, "wider_than_own_token")
    assert narrow("post", "tokens", {"name": "x", "scopes": ["read"], "expires_at": in_days(9)}).status_code == 403
    child = narrow("post", "tokens", {"name": "x", "scopes": ["read"], "expires_at": in_days(1)}).body["secret"]
    parent = ApiToken.objects.get(user=admin_person, name="t")
    assert Api(Client(), child)("get", "me").status_code == 200
    assert narrow("delete", f"tokens/{parent.pk}").status_code == 204
    assert Api(Client(), child)("get", "me").status_code == 401


def test_scopes_hold_for_administrators_too(admin_person, topic_fields):
    reader = scoped(admin_person, "read")
    assert reader("get", "topics").status_code == 200
    for method, path, body in [
        ("post", "topics", {**topic_fields, "name": "t"}),
        ("post", "tokens", {"name": "x", "scopes": ["read"], "expires_at": in_days(1)}),
        ("post", "topics/t/messages", {"body": "x"}),
        ("post", "consumer-groups/g/pull", {}),
    ]:
        assert reader(method, path, body).status_code == 403, path
    assert scoped(admin_person, "produce")("get", "topics").status_code == 403


def test_tokens_of_others_are_seen_by_administrators_only(api, second_person):
    dana = User.objects.create_user("dana")
    dana.groups.add(group_of(DEVELOPER))
    secret = token_for(dana)
    own = Api(Client(), secret)("get", "tokens").body["results"]
    assert [row["user"] for row in own] == ["dana"]
    everyone = api("get", "tokens").body["results"]
    assert {row["user"] for row in everyone} == {"alice", "dana"}
    other = next(row["id"] for row in everyone if row["user"] == "alice")
    assert Api(Client(), secret)("delete", f"tokens/{other}").status_code == 404


class Signed:
    """A client that signs as an application does; `wrong` spoils a part."""

    def __init__(self, key_id, secret):
        self.key_id, self.secret = key_id, secret

    def __call__(self, method, path, body="", *, at=0, nonce="", wrong="", sent=None):
        nonce = nonce or secrets.token_hex(10)
        path, stamp = f"/api/v1/{path}", str(int(time()) + at)
        signature = signing.sign(self.secret, method=method, path=path, timestamp=stamp, nonce=nonce, body=body.encode())
        parts = {"key": self.key_id, "timestamp": stamp, "nonce": nonce, "signature": signature}
        if wrong:
            parts[wrong] = parts[wrong][:-1] + ("0" if parts[wrong][-1] != "0" else "1")
        header = "App " + ", ".join(f"{k}={v}" for k, v in parts.items())
        response = Client().generic(
            method, path, (sent or body).encode(), content_type="application/json", headers={"Authorization": header}
        )
        response.body = response.json() if response.content else None
        return response


@pytest.fixture
def house():
    people = make_people()
    shop, other = (Application.objects.create(name=name, owner=people.alice) for name in ("shop", "other"))
    topic(people, shop, "paid%topic")
    topic(people, other, "other_topic")
    group(people, shop, "shop_group", [("paid%topic", "*")])
    group(people, other, "other_group", [("paid%topic", "*")])
    return Api(Client(), token_for(people.alice))


@pytest.fixture
def signed(house):
    made = house("post", "applications/shop/keys", {"name": "production"})
    assert made.status_code == 201, made.body
    return Signed(made.body["key_id"], made.body["secret"])


def test_the_test_vector_of_the_documentation():
    sent = {
        "method": "POST", "path": "/api/v1/topics/paid%25topic/messages", "timestamp": "1763740800", "nonce": "0f8fad5bd9cb469fa165",
        "body": b'{"body":"x"}',
    }  # fmt: skip
    digest = "95d1504ea9e70f474b35a354180f4a4c2528f3a38b0584fe4b563c27cdabe512"
    assert signing.canonical(**sent).decode() == (
        "MQADMIN-HMAC-SHA256\nPOST\n/api/v1/topics/paid%25topic/messages\n1763740800\n0f8fad5bd9cb469fa165\n" + digest
    )
    secret, signature = "ZG8gbm90IHVzZSB0aGlzIHNlY3JldCBhbnl3aGVyZQ", "9da6f2fad36884d8ae31a8c85a14e4c540be293676fefb908ff7ff8f2cfaff19"
    assert signing.sign(secret, **sent) == signature
    documented = (settings.BASE_DIR / "docs" / "security.md").read_text()
    assert all(word in documented for word in (digest, secret, signature))


def test_an_application_works_with_what_is_its_own_and_nothing_else(signed):
    assert signed("POST", "topics/paid%25topic/messages", '{"body":"x"}').status_code == 201
    assert signed("POST", "consumer-groups/shop_group/pull", "{}").status_code == 200
    assert signed("POST", "consumer-groups/shop_group/next", "{}").status_code == 200
    assert signed("GET", "topics/paid%25topic").status_code == 200
    assert signed("GET", "consumer-groups/shop_group/status?fields=group").status_code == 200
    assert {row["name"] for row in signed("GET", "topics").body["results"]} == {"paid%topic"}
    assert signed("GET", "me").body["username"].startswith("key:shop/mqk_")
    for method, path, body in [
        ("POST", "topics/other_topic/messages", '{"body":"x"}'),
        ("POST", "consumer-groups/other_group/pull", "{}"),
        ("GET", "topics/other_topic", ""),
        ("GET", "consumer-groups/other_group/status", ""),
    ]:
        assert signed(method, path, body).status_code == 404, path
    for method, path in [("GET", "applications"), ("GET", "clusters"), ("GET", "messages?topic=paid%25topic"), ("POST", "topics"),
                         ("GET", "tokens"), ("GET", "publications"), ("GET", "consumer-groups/shop_group/dead-letters"),
                         ("POST", "applications/shop/keys"), ("POST", "consumer-groups/shop_group/suspension")]:  # fmt: skip
        assert signed(method, path, "{}" if method == "POST" else "").status_code == 403, path


def test_a_request_is_taken_as_it_was_signed_once_and_soon(signed):
    path, body = "topics/paid%25topic/messages", '{"body":"x"}'
    for wrong in ("key", "timestamp", "nonce", "signature"):
        refused = signed("POST", path, body, wrong=wrong)
        assert (refused.status_code, refused.body["code"]) == (401, "wrong_credentials"), wrong
    assert signed("POST", path, body, sent='{"body":"y"}').status_code == 401
    for off in (-400, 400):
        assert signed("POST", path, body, at=off).body["code"] == "stale_timestamp"
    assert signed("POST", path, body, nonce="a" * 20).status_code == 201
    again = signed("POST", path, body, nonce="a" * 20)
    assert (again.status_code, again.body["code"]) == (401, "replayed")
    for _ in range(2):
        assert signed("GET", "topics/paid%25topic", nonce="b" * 20).status_code == 200
    assert Client().get("/api/v1/topics", headers={"Authorization": "App rubbish"}).status_code == 401


def test_a_key_is_listed_without_its_secret_and_revoked(house, signed):
    listed = house("get", "applications/shop/keys").body["results"]
    assert [(row["key_id"], row["created_by"], row["revoked_at"]) for row in listed] == [(signed.key_id, "alice", None)]
    assert "secret" not in listed[0]
    with connection.cursor() as cursor:
        cursor.execute("SELECT secret FROM accounts_applicationkey")
        assert signed.secret not in cursor.fetchone()[0]
    assert signed("GET", "topics").status_code == 200
    assert house("delete", f"applications/shop/keys/{signed.key_id}").status_code == 204
    assert signed("GET", "topics").status_code == 401
    assert house("delete", f"applications/shop/keys/{signed.key_id}").status_code == 409
    assert not [e for e in AuditEntry.objects.all() if signed.secret in str((e.before, e.after))]
    assert {e.action for e in AuditEntry.objects.filter(kind="application key")} == {"create", "revoke"}


def test_a_key_ends_by_itself(signed):
    ApplicationKey.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    authentication._keys.clear()
    assert signed("GET", "topics").status_code == 401


def test_a_cached_key_costs_one_insert(signed, django_assert_num_queries):
    signed("POST", "consumer-groups/shop_group/pull", "{}")
    with django_assert_num_queries(1) as seen:  # the store's own statements go past Django's wrapper
        assert signed("POST", "consumer-groups/shop_group/pull", "{}").status_code == 200
    assert "accounts_keynonce" in seen.captured_queries[0]["sql"]


def test_nonces_are_thrown_away_when_no_signature_can_use_them(signed):
    signed("POST", "consumer-groups/shop_group/pull", "{}")
    assert tasks.clean() == 0
    KeyNonce.objects.update(at=timezone.now() - timedelta(minutes=20))
    assert tasks.clean() == 1
    with connection.cursor() as cursor:
        cursor.execute("SELECT relpersistence FROM pg_class WHERE relname = 'accounts_keynonce'")
        assert cursor.fetchone() == ("u",)


def test_a_credential_has_a_rate_and_others_have_their_own(settings, api, api2, api_anonymous):
    settings.RATE_LIMIT, settings.ANONYMOUS_RATE_LIMIT = "3/m", "2/m"
    codes = [api("get", "me").status_code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    refused = api("get", "me")
    assert refused.body["code"] == "too_many_requests"
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert api2("get", "me").status_code == 200
    assert api("post", "consumer-groups/none/pull", {}).status_code == 404, "the data plane has a limit of its own, none here"
    assert [api_anonymous("get", "me").status_code for _ in range(3)] == [401, 401, 429]
    assert Api(Client(), "wrong")("get", "me").status_code == 429, "guessing counts against the address"
    settings.DATA_RATE_LIMIT = "1/s"
    assert 429 in [api("post", "consumer-groups/none/pull", {}).status_code for _ in range(4)]


def test_behind_a_proxy_the_mistakes_of_one_client_are_not_everybodys(settings, db):
    settings.ANONYMOUS_RATE_LIMIT, settings.TRUSTED_PROXIES = "2/m", ["127.0.0.0/8"]
    guessing, other = (Api(Client(headers={"X-Forwarded-For": address}), "wrong") for address in ("192.0.2.1", "192.0.2.2"))
    assert [guessing("get", "me").status_code for _ in range(3)] == [401, 401, 429]
    assert other("get", "me").status_code == 401
