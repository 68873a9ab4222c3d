"""The short way of the data plane answers as the long one would, to the last header; and a send costs one statement."""

import pytest
from django.test import Client
from messages_world import statements, world  # noqa: F401 - fixtures

from accounts.models import ApiToken
from clusters.models import Cluster
from core import short_way
from messages import sending, services
from messages.types import NewMessage, SeenTopic
from tests.store_world import Threads, session, sql, until
from topics.models import Topic

CASES = {
    "sent": {},
    "in another language": {"headers": {"Accept-Language": "zh-hans"}, "data": '{"nothing": 1}'},
    "with the language's cookie": {"HTTP_COOKIE": "django_language=zh-hans", "data": "{}"},
    "nonsense": {"data": "{"},
    "an unknown topic": {"path": "/api/v1/topics/no_such_topic/messages"},
    "no POST": {"method": "GET"},
    "an unknown token": {"headers": {"Authorization": "Token mq_unknown"}},
    "no credential": {"headers": {"Authorization": None}},
    "somebody else": {"who": "nobody"},
    "no JSON": {"content_type": "text/plain"},
    "another host": {"headers": {"Host": "evil.example.com"}},
    "a request id": {"headers": {"X-Request-ID": "asked-for"}},
    "a pull": {"path": "/api/v1/consumer-groups/no_such_group/pull"},
    "no such address": {"path": "/api/v1/topics/a/b/c/messages"},
}


@pytest.fixture(autouse=True)
def _committed(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        yield


@pytest.fixture(scope="module")
def topic(world, django_db_blocker):  # noqa: F811
    with django_db_blocker.unblock():
        return world.topic()


def ask(world, topic, *, who="wang", method="POST", path=None, data='{"body": "x", "id": "the same"}', headers=(), **more):  # noqa: F811
    secret = world.secret if who == "wang" else world.api_nobody.headers["Authorization"].removeprefix("Token ")
    sent = {"Authorization": f"Token {secret}", "X-Request-ID": "fixed", "Host": "localhost", **dict(headers)}
    more.setdefault("content_type", "application/json")
    return Client().generic(
        method, path or f"/api/v1/topics/{topic.name}/messages", data, headers={k: v for k, v in sent.items() if v is not None}, **more
    )


@pytest.mark.django_db  # makes pytest-django prepare the database for this module; the others commit
def test_other_addresses_go_the_long_way():
    assert short_way._match("/api/v1/topics/a/messages") is not None
    assert [short_way._match(path) for path in ("/api/v1/topics", "/admin/", "/nothing")] == [None] * 3


@pytest.mark.parametrize("https", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_both_ways_answer_alike(world, topic, monkeypatch, settings, case, https):  # noqa: F811, PLR0917
    settings.SECURE_SSL_REDIRECT = https
    settings.SECURE_HSTS_SECONDS = 3600 if https else 0
    settings.ALLOWED_HOSTS = ["localhost"]
    ask(world, topic, secure=https)  # from now on it is a duplicate
    asked = {**CASES[case], "secure": https}
    short = ask(world, topic, **asked)
    monkeypatch.setattr(short_way, "_match", lambda _path: None)
    long = ask(world, topic, **asked)
    assert (short.status_code, short.content, dict(short.items())) == (long.status_code, long.content, dict(long.items()))
    assert ("Strict-Transport-Security" in short) is https
    if case in {"in another language", "with the language's cookie"}:
        assert short["Content-Language"] == "zh-hans"
        assert not short.content.isascii()


def test_what_is_not_safe_is_sent_to_https_first(world, topic, settings):  # noqa: F811
    settings.SECURE_SSL_REDIRECT = True
    answer = ask(world, topic)
    assert (answer.status_code, answer["Location"]) == (301, f"https://localhost/api/v1/topics/{topic.name}/messages")


def test_a_view_that_fails_answers_with_a_problem(world, topic, monkeypatch):  # noqa: F811
    def fails(*_args, **_kwargs):
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("messages.services.send_one", fails)
    answer = ask(world, topic)
    assert (answer.status_code, answer.json()["code"], answer.json()["request_id"]) == (500, "internal", "fixed")


def test_a_send_to_a_topic_that_is_known_is_one_statement(world, topic, statements):  # noqa: F811
    world.api("POST", f"topics/{topic.name}/messages", {"body": "x"})
    assert statements(lambda: world.api("POST", f"topics/{topic.name}/messages", {"body": "x"})) == 1


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"state": "retired"}, 409, "topic_not_active"),
        ({"cluster": None}, 409, "not_on_builtin_store"),
        ({"max_backlog": 1}, 429, "backlog_full"),
        ({"name": "another_name"}, 201, None),  # who has looked it up reaches it; its name is looked up anew by others
    ],
)
def test_what_another_process_has_changed_holds_for_the_next_send(world, change, status, code):  # noqa: F811
    """This process remembers the topic and is told nothing."""
    topic = world.topic()
    world.group(topic)
    for _ in range(2):
        assert world.api("POST", f"topics/{topic.name}/messages", {"body": "x"}).status_code == 201
    services.tick()
    elsewhere = Cluster.objects.create(name="elsewhere", kind="kafka", address="kafka.example.com:9092")
    Topic.objects.filter(pk=topic.pk).update(**({"cluster": elsewhere} if "cluster" in change else change))
    answer = world.api("POST", f"topics/{topic.name}/messages", {"body": "x"})
    Topic.objects.filter(pk=topic.pk).update(cluster=world.builtin)
    elsewhere.delete()
    assert (answer.status_code, (answer.body or {}).get("code")) == (status, code), answer.body


def test_a_revoked_token_is_refused_on_the_short_way(world, topic):  # noqa: F811
    from accounts import authentication
    from tests.conftest import Api, token_for

    secret = token_for(world.admin)
    api = Api(Client(), secret)
    assert api("POST", f"topics/{topic.name}/messages", {"body": "x"}).status_code == 201
    digest = ApiToken.digest_of(secret)
    ApiToken.objects.filter(digest=digest).delete()
    authentication.forget(digest=digest)
    assert api("POST", f"topics/{topic.name}/messages", {"body": "x"}).status_code == 401


def test_of_sends_that_share_a_commit_only_the_one_whose_topic_has_changed_is_refused(world):  # noqa: F811
    fields = ("pk", *SeenTopic._fields[1:])
    right, wrong = (SeenTopic(*Topic.objects.values_list(*fields).get(pk=world.topic().pk)) for _ in range(2))
    sends = [right, right, wrong._replace(max_backlog=7), right]  # the first one holds the commit that the others wait for
    stored, threads = {}, Threads()

    def one(i):
        try:
            stored[i] = services.send_one(topic=sends[i], message=NewMessage(b"%d" % i)).id
        except sending.TopicChangedError:
            stored[i] = None

    with session(autocommit=False) as lock:
        lock.execute("LOCK TABLE mq_message IN EXCLUSIVE MODE")
        for i in range(len(sends)):
            threads.start(one, i)
            until(lambda i=i: sending._coalescer._busy and sending._coalescer.waiting == i, 30)
        lock.rollback()
        threads.join()
    assert [stored[i] is not None for i in range(4)] == [True, True, False, True]
    found = sql("SELECT array_agg(convert_from(body, 'utf8') ORDER BY id) FROM mq_message WHERE topic_id = %s", right.topic_id)
    assert sorted(found) == ["0", "1", "3"]
    assert sql("SELECT count(*) FROM mq_message WHERE topic_id = %s", wrong.topic_id) == 0
