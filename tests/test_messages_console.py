"""The console's pages of messages: what they show, what they do, who may, and that no row costs a statement."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from django.urls import reverse
from messages_world import statements, world  # noqa: F401 - fixtures

from messages import operating, reading, services
from messages.types import NewMessage, Outcome


@pytest.mark.django_db
def test_a_person_who_is_not_signed_in_is_sent_to_the_login(client):
    """The mark prepares the database for this module."""
    for page in ("messages_list", "messages_send", "messages_dead", "messages_delayed"):
        response = client.get(reverse(f"admin:{page}"))
        assert response.status_code == 302
        assert "/login/" in response.headers["Location"]


@pytest.fixture(autouse=True)
def _committed(request, django_db_blocker):
    if request.node.get_closest_marker("django_db"):
        yield
        return
    request.getfixturevalue("world")
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def browser(world):  # noqa: F811
    return world.browser(world.admin)


@pytest.fixture
def viewer(world):  # noqa: F811
    return world.browser(world.viewer)


@pytest.fixture
def topic(world):  # noqa: F811
    return world.topic()


@pytest.fixture
def group(world, topic):  # noqa: F811
    return world.group(topic)


def send(topic, *bodies, **fields):
    return [a.id for a in services.send(topic_id=topic.pk, messages=[NewMessage(body.encode(), **fields) for body in bodies])]


def kill(group, ids, error="no stock"):
    services.tick()
    batch = services.pull(group_id=group.pk, limit=1000, visibility_ms=60_000, consumer="w1")
    outcomes = [Outcome(m.id, "dead" if m.id in ids else "succeeded", error=error if m.id in ids else None) for m in batch.messages]
    assert all(s.problem_code is None for s in services.settle(group_id=group.pk, lease=batch.lease, outcomes=outcomes))


def page(client, name, *args, status=200, **query):
    response = client.get(reverse(f"admin:{name}", args=args), query)
    assert response.status_code == status, response.content[:500]
    text = response.content.decode()
    assert " style=" not in text
    assert not re.search(r"\son\w+=", text)
    return text


# --- browse -----------------------------------------------------------------------------------------------------------


def test_the_list_shows_messages_with_a_shape_per_group(world, browser, topic, group):  # noqa: F811
    other = world.group(topic)
    done, dead = send(topic, '{"a": 1}', "<b>bold</b>", key="order-7")
    kill(group, {dead})
    text = page(browser, "messages_list", topic=topic.name)
    assert text.index(str(dead)) < text.index(str(done))
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert "<b>bold" not in text
    for label in (f"{group.name}: Succeeded", f"{group.name}: Dead", f"{other.name}: Waiting"):
        assert f'aria-label="{label}"' in text


def test_the_drawer_tells_the_status_in_every_group(world, browser, topic, group):  # noqa: F811
    world.group(topic)
    (dead,) = send(topic, '{"orderId": 7, "amount": 1289.00}', key="order-7")
    kill(group, {dead}, error="TimeoutError: billing")
    text = page(browser, "messages_list", topic=topic.name, id=dead)
    for expected in (
        "TimeoutError: billing",
        "w1",
        '<span class="jk">&quot;orderId&quot;</span>',
        '<span class="jn">1289.00</span>',
        "not handed out yet",
    ):
        assert expected in text
    alone = page(browser, "messages_detail", dead)
    assert "TimeoutError: billing" in alone
    assert "6f7264657249" not in alone
    assert "6f 72 64 65 72 49 64" in page(browser, "messages_detail", dead, body="hex")


def test_it_finds_by_key_tag_and_id(browser, topic):
    a, b = send(topic, "a", key="order-1", tag="created")[0], send(topic, "b", key="order-2", tag="paid")[0]
    assert (str(a) in (text := page(browser, "messages_list", topic=topic.name, q="order-1")), str(b) in text) == (True, False)
    assert (str(a) in (text := page(browser, "messages_list", topic=topic.name, q="tag:paid")), str(b) in text) == (False, True)
    assert str(a) in page(browser, "messages_list", topic=topic.name, q=f"id:{a}")
    elsewhere = browser.get(reverse("admin:messages_list"), {"topic": "no_such", "q": str(a)})
    assert elsewhere.headers["Location"] == reverse("admin:messages_detail", args=[a])
    assert "No match for" in page(browser, "messages_list", topic=topic.name, q="order-3")


@pytest.mark.parametrize(
    "query",
    [
        {"range": "forever"},
        {"to": "yesterday"},
        {"to": "99999999999"},
        {"cursor": "zzz"},
        {"id": "99999999999999999999"},
        {"id": "x"},
        {"q": "id:abc"},
        {"q": "key:\x00"},
        {"topic": "\x00"},
        {"body": "xml"},
    ],
    ids=str,
)
def test_parameters_that_make_no_sense_are_no_error(browser, topic, query):
    send(topic, "a")
    page(browser, "messages_list", **{"topic": topic.name, **query})


def test_a_time_without_messages_says_so(browser, topic):
    send(topic, "a")
    long_ago = int((datetime.now(UTC) - timedelta(days=3)).timestamp())
    assert "No message in this time" in page(browser, "messages_list", topic=topic.name, to=long_ago)
    assert "There is no topic" in page(browser, "messages_list", topic="no_such_topic")


def test_the_list_goes_on_on_the_next_page(browser, topic):
    ids = send(topic, *["x"] * 60)
    first = page(browser, "messages_list", topic=topic.name)
    cursor = re.search(r"cursor=(\d+)", first).group(1)
    second = page(browser, "messages_list", topic=topic.name, cursor=cursor)
    assert (str(ids[59]) in first, str(ids[0]) in first) == (True, False)
    assert (str(ids[59]) in second, str(ids[0]) in second) == (False, True)


def test_the_body_is_downloaded_as_bytes(browser, topic):
    (message,) = services.send(topic_id=topic.pk, messages=[NewMessage(b"\x00<script>")])
    response = browser.get(reverse("admin:messages_body", args=[message.id]))
    assert (response.content, response.headers["Content-Type"]) == (b"\x00<script>", "application/octet-stream")
    assert response.headers["Content-Disposition"].startswith("attachment")


def test_a_message_that_is_not_there_is_a_page(browser):
    assert "There is no" in page(browser, "messages_detail", 42, status=404)


def test_no_row_costs_a_statement(world, browser, topic, group, statements):  # noqa: F811
    def urls():
        base = [
            ("messages_list", {"topic": topic.name}),
            ("messages_delayed", {"topic": topic.name}),
            ("messages_dead", {"group": group.name}),
        ]
        return [statements(lambda n=name, q=query: page(browser, n, **q)) for name, query in base]

    send(topic, "later", deliver_at=datetime.now(UTC) + timedelta(hours=1))
    kill(group, set(send(topic, "a")))
    urls()
    few = urls()
    send(topic, *["later"] * 20, deliver_at=datetime.now(UTC) + timedelta(hours=1))
    kill(group, set(send(topic, *["x"] * 40)))
    assert urls() == few


# --- send -------------------------------------------------------------------------------------------------------------


def test_a_person_sends_a_message(browser, topic, group):
    from core.audit.models import AuditEntry

    response = browser.post(
        reverse("admin:messages_send"), {"topic": topic.name, "body": "hällo", "key": "k-1", "tag": "paid", "delay": ""}
    )
    assert response.status_code == 302, response.content[:2000]
    services.tick()
    (message,) = services.pull(group_id=group.pk, limit=10, visibility_ms=1000, consumer="w").messages
    assert (message.body.decode(), message.key, message.tag) == ("hällo", "k-1", "paid")
    assert response.headers["Location"] == reverse("admin:messages_detail", args=[message.id])
    entry = AuditEntry.objects.get(action="send", name=str(message.id))
    assert (entry.actor_name, entry.after) == ("wang", {"topic": topic.name, "key": "k-1", "tag": "paid"})


def test_a_delayed_message_waits_and_is_moved_and_cancelled(browser, topic):
    response = browser.post(reverse("admin:messages_send"), {"topic": topic.name, "body": "x", "delay": "7200"})
    message_id = int(response.headers["Location"].rstrip("/").split("/")[-1])
    assert "Not delivered yet" in page(browser, "messages_detail", message_id)
    assert str(message_id) in page(browser, "messages_delayed", topic=topic.name)
    assert "Nothing is due in this time" in page(browser, "messages_delayed", topic=topic.name, due="1h")
    before = services.message(message_id=message_id).deliver_at
    assert "not a valid" not in page(browser, "messages_reschedule", message_id)
    moved = browser.post(reverse("admin:messages_reschedule", args=[message_id]), {"delay": "60", "deliver_at": "", "reason": ""})
    assert moved.status_code == 302
    assert services.message(message_id=message_id).deliver_at < before - timedelta(minutes=100)
    assert str(message_id) in page(browser, "messages_delayed", topic=topic.name, due="1h")
    refused = browser.post(reverse("admin:messages_cancel", args=[message_id]), {"reason": ""})
    assert refused.status_code == 200  # a reason is needed
    cancelled = browser.post(reverse("admin:messages_cancel", args=[message_id]), {"reason": "order was paid"})
    assert cancelled.status_code == 302
    page(browser, "messages_detail", message_id, status=404)
    page(browser, "messages_cancel", message_id, status=404)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tag": "two words"}, "is not a valid tag"),
        ({"topic": "no_such"}, "Select a valid choice"),
        ({"key": "k" * 300}, "at most 255"),
        ({"delay": "-5"}, "greater than or equal to 0"),
        ({"delay": "99999999999"}, "less than or equal to"),
        ({"body": "x" * (1024 * 1024 + 1)}, "bytes"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_a_bad_message_is_refused_at_its_field(browser, topic, fields, said):
    response = browser.post(reverse("admin:messages_send"), {"topic": topic.name, "body": "x", "key": "", "tag": "", "delay": "", **fields})
    assert response.status_code == 200
    assert said in response.content.decode()
    assert services.search(topic_id=topic.pk).items == []


def test_sending_again_begins_with_the_message(browser, topic):
    (message,) = send(topic, '{"n": 1}', key="k-9", tag="paid")
    text = page(browser, "messages_send", like=message)
    assert "{&quot;n&quot;: 1}" in text
    assert 'value="k-9"' in text


# --- dead letters -----------------------------------------------------------------------------------------------------


def test_dead_letters_are_shown_with_their_causes(browser, topic, group):
    a, b, c = send(topic, *"abc", key="k")
    kill(group, {a, b}, error="no stock")
    text = page(browser, "messages_dead", group=group.name)
    assert (str(a) in text, str(b) in text, str(c) in text) == (True, True, False)
    assert [(c.cause, c.messages) for c in services.dead_causes(group_id=group.pk).items] == [("no stock", 2)]
    assert group.name in page(browser, "messages_dead")
    assert "No match" in page(browser, "messages_dead", group=group.name, reason="timeout")
    assert "No match" in page(browser, "messages_dead", group=group.name, topic="no_such")
    page(browser, "messages_dead", group="no_such", status=404)


def test_all_that_match_are_shown_by_hour_moved_and_cancelled(browser, topic):
    from core.operations.models import Operation

    due = datetime.now(UTC) + timedelta(hours=3)
    services.send(topic_id=topic.pk, messages=[NewMessage(b"x", deliver_at=due), NewMessage(b"y", deliver_at=due)])
    text = page(browser, "messages_delayed", topic=topic.name)
    assert re.search(r'<rect class="in" x="3\.1"[^>]*><title>[^<]+: 2</title>', text)
    moving, cancelling = (f"{reverse(f'admin:messages_{verb}_all')}?topic={topic.name}&due=24h" for verb in ("reschedule", "cancel"))
    frozen = re.search(r'name="frozen" value="([^"]+)"', browser.get(moving).content.decode()).group(1)
    services.send(topic_id=topic.pk, messages=[NewMessage(b"z", deliver_at=due)])
    answer = browser.post(moving, {"frozen": frozen, "delay": "0", "reason": "now"})
    job = Operation.objects.get(uid=answer.headers["Location"].rstrip("/").rpartition("/")[2])
    assert (job.kind, job.total, job.params["deliver_at"]) == ("messages.reschedule_delayed", 2, None)
    wrong = browser.post(cancelling, {"confirm_name": "x", "reason": "r"})
    assert "This is not the name." in wrong.content.decode()
    answer = browser.post(cancelling, {"confirm_name": topic.name, "reason": "r"})
    assert Operation.objects.get(uid=answer.headers["Location"].rstrip("/").rpartition("/")[2]).total == 3
    assert browser.get(f"{reverse('admin:messages_cancel_all')}?topic=no_such").status_code == 404


def redrive(client, group, **fields):
    response = client.post(reverse("admin:messages_dead"), {"group": group.name, "scope": "picked", "why": "stock is back", **fields})
    assert response.status_code == 302
    return response.headers["Location"]


def test_one_selected_and_all_matching_are_redriven(browser, topic, group):
    ids = send(topic, *"abcdef")
    kill(group, set(ids))
    text = page(browser, "messages_dead", group=group.name)
    frozen = re.search(r'name="frozen" value="([^"]+)"', text).group(1)
    one = redrive(browser, group, one=ids[0])
    shown = browser.get(f"{one}?state=all").content.decode()
    assert str(ids[0]) in shown
    assert "stock is back" in shown
    redrive(browser, group, ids=[ids[1], ids[2]])
    assert len(services.dead_letters(group_id=group.pk).items) == 3
    none = redrive(browser, group, scope="all", reason="timeout", frozen=frozen)
    assert "there was nothing to do" in browser.get(none).content.decode()
    redrive(browser, group, scope="all", reason="STOCK", frozen=frozen)
    assert services.dead_letters(group_id=group.pk).items == []
    assert "No dead letters" in page(browser, "messages_dead", group=group.name)
    jobs = page(browser, "operations_list", kind="messages.redrive", q=group.name)
    assert jobs.count(f"Redrive: {group.name}") >= 4


def test_a_careful_redrive_waits_for_its_workers(browser, topic, group):
    from core.operations.models import Operation

    ids = send(topic, *"ab")
    kill(group, set(ids))
    url = redrive(browser, group, ids=ids, to="other", other=topic.name, rate="2.5", canary="1", stop_at="10")
    job = Operation.objects.get(uid=url.rstrip("/").rpartition("/")[2])
    assert (job.state, job.params["topic_id"], job.params["rate"], job.params["canary"], job.params["stop_at"]) == (
        "queued", topic.pk, 2.5, 1, 0.1,
    )  # fmt: skip
    for wrong in ({"rate": "nan"}, {"rate": "x"}, {"to": "other", "other": "no_such"}, {"canary": "-1"}):
        assert redrive(browser, group, ids=ids, **wrong).startswith(reverse("admin:messages_dead"))


def test_a_purge_wants_the_name_of_the_group_and_a_reason(browser, topic, group):
    ids = send(topic, *"ab")
    kill(group, set(ids))
    for wrong in ({"confirm": "x"}, {"confirm": group.name, "why": " "}, {}):
        assert redrive(browser, group, ids=ids, do="purge", **wrong).startswith(reverse("admin:messages_dead"))
    assert len(services.dead_letters(group_id=group.pk).items) == 2
    url = redrive(browser, group, ids=ids, do="purge", confirm=group.name)
    assert "Purge dead letters" in browser.get(url).content.decode()
    assert services.counts(group_ids=[group.pk])[group.pk].failed == 2


def test_a_dead_letter_is_corrected_and_sent_on(browser, topic, group):
    a, b = send(topic, '{"n": 1}', "b")
    kill(group, {a, b})
    where = reverse("admin:messages_edit", args=[group.name, a])
    assert "{&quot;n&quot;: 1}" in browser.get(where).content.decode()
    wrong = browser.post(where, {"to": "other", "body": "{}", "headers": "{}", "key": "", "tag": "a b"})
    assert wrong.status_code == 200
    assert "Choose the topic." in wrong.content.decode()
    done = browser.post(where, {"to": "group", "body": '{"n": 2}', "headers": '{"x": "y"}', "key": "k2", "tag": ""})
    new = services.message(message_id=int(done.headers["Location"].rstrip("/").rpartition("/")[2]))
    assert (new.body, new.key, new.headers["x"], new.headers["mq-redriven-from"]) == (b'{"n": 2}', "k2", "y", str(a))
    assert "no longer a dead letter" in browser.get(where).content.decode()
    assert browser.get(done.headers["Location"]).status_code == 200


def test_a_message_shows_its_life_and_where_it_came_from(browser, topic, group):
    (a,) = send(topic, "a")
    kill(group, {a})
    text = page(browser, "messages_detail", a)
    assert f"{group.name}: dead after 1 failed tries" in text
    new = browser.post(reverse("admin:messages_edit", args=[group.name, a]), {"to": "group", "body": "b", "headers": "{}"})
    copy = new.headers["Location"]
    assert f'<a href="{copy}">{group.name}: redriven by wang' in page(browser, "messages_detail", a)
    assert topic.name in page(browser, "messages_position", group.name)  # the private topic of the edited one is no position of its own
    assert f'<a href="{reverse("admin:messages_detail", args=[a])}">Came from {a}' in browser.get(copy).content.decode()


def test_the_list_can_be_taken_as_a_file(browser, topic, group):
    ids = send(topic, *"ab")
    kill(group, set(ids))
    shown = page(browser, "messages_dead", group=group.name, cause="no stock")
    assert f"{reverse('admin:messages_dead_export')}?group={group.name}&amp;cause=no+stock" in shown
    table = b"".join(browser.get(reverse("admin:messages_dead_export"), {"group": group.name, "cause": "no stock"}).streaming_content)
    assert table.decode().count("no stock") == 2


def test_what_died_after_the_page_was_drawn_stays(browser, topic, group):
    (early,) = send(topic, "early")
    kill(group, {early})
    frozen = datetime.now(UTC).isoformat()
    (late,) = send(topic, "late")
    kill(group, {late})
    redrive(browser, group, scope="all", frozen=frozen)
    assert [d.id for d in services.dead_letters(group_id=group.pk).items] == [late]


def test_a_refused_message_has_its_reason_on_the_page_of_the_job(browser, topic, group):
    a, b = send(topic, *"ab")
    kill(group, {a})
    url = redrive(browser, group, ids=[a, b])
    text = browser.get(url).content.decode()
    assert "It is no longer a dead letter." in text
    assert str(a) not in browser.get(f"{url}?state=failed").content.decode()


@pytest.mark.parametrize("fields", [{}, {"ids": "abc"}, {"one": "x"}, {"scope": "all", "topic": "no_such"}], ids=str)
def test_a_redrive_of_nothing_is_refused(browser, group, fields):
    from core.operations.models import Operation

    assert redrive(browser, group, **fields).startswith(reverse("admin:messages_dead"))
    assert not Operation.objects.filter(params__group_id=group.pk).exists()


# --- permissions ------------------------------------------------------------------------------------------------------


def test_reading_needs_a_permission(world, topic):  # noqa: F811
    from accounts.models import User

    stranger, _made = User.objects.get_or_create(username="stranger", defaults={"is_staff": True})
    client = world.browser(stranger)
    (message,) = send(topic, "secret")
    lists = ("messages_list", "messages_delayed", "messages_dead", "messages_send")
    for name, args in [*((name, []) for name in lists), ("messages_detail", [message]), ("messages_body", [message])]:
        assert "secret" not in page(client, name, *args, status=403)


def test_a_viewer_sees_buttons_that_say_why_they_are_off(world, topic, group):  # noqa: F811
    from accounts.models import User

    User.objects.filter(pk=world.viewer.pk).update(is_staff=True)
    viewer = world.browser(world.viewer)
    dead, kept = send(topic, *"ab")
    kill(group, {dead})
    operating.send(actor=world.admin, topic_id=topic.pk, message=NewMessage(b"x", deliver_at=datetime.now(UTC) + timedelta(hours=1)))
    for name, query in [
        ("messages_list", {"topic": topic.name, "id": kept}),
        ("messages_dead", {"group": group.name}),
        ("messages_delayed", {}),
    ]:
        assert "You do not have the permission" in page(viewer, name, **query)
    assert viewer.post(reverse("admin:messages_dead"), {"group": group.name, "one": dead}).status_code == 403
    assert viewer.post(reverse("admin:messages_send"), {"topic": topic.name, "body": "x"}).status_code == 403
    assert [d.id for d in services.dead_letters(group_id=group.pk).items] == [dead]


# --- how a body is shown ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [{}, [], {"a": []}, [{"b": {}}], {"a": {"b": [1, 2.50, 'x"y', None, True, "</script>"]}, "c,:": "{"}, ["中文", "\u2028"]],
    ids=str,
)
def test_pretty_json_is_the_same_json(value):
    import html

    shown = reading.pretty(json.dumps(value, ensure_ascii=False))
    assert "</script>" not in shown
    assert json.loads(html.unescape(re.sub(r"</?span[^>]*>", "", shown))) == value


@pytest.mark.parametrize("text", ["5", '"a"', "{", "[1,", "plain", "", "{" * 100_000])
def test_what_is_no_json_object_is_not_made_pretty(text):
    assert reading.pretty(text) is None


def test_a_preview_may_cut_a_character(topic):
    (message,) = send(topic, "中" * 100)
    assert reading.previews(topic_id=topic.pk, message_ids=[message])[message].startswith("中" * 50)
    assert reading.one_line(b"\xff\x00\x01") == "ff 00 01"


def test_the_palette_finds_a_message_by_its_whole_id(browser, topic):
    (message,) = send(topic, "{}")
    url = reverse("admin:messages_detail", args=[message])
    assert url in page(browser, "find", q=str(message))
    assert "Messages" not in page(browser, "find", q=str(message)[:-1])
