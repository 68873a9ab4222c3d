"""Notifications: made with what they tell, sent to real receivers, again until they are taken, and at most twice when a worker dies."""

import hashlib
import hmac
import json
import os
import socketserver
import subprocess
import sys
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.conf import settings as live
from django.core import mail
from django.db import connection, transaction
from django.utils import timezone

from core.approvals import outbox, targets, workflow
from core.approvals.models import NotificationDelivery, NotificationTarget, Request
from core.errors import Problem
from tests.approvals_world import active, apply, change, make_people
from tests.store_world import Threads, until

State = NotificationDelivery.State


class Receiver(ThreadingHTTPServer):
    """A webhook's other end; `answers` are given in turn, then 204. `hold` keeps it from answering."""

    daemon_threads = True

    def __init__(self):
        self.got, self.answers, self.hold = [], [], None
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers), body))
        if self.server.hold:
            self.server.hold.wait(30)
        code = self.server.answers.pop(0) if self.server.answers else 204
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


class Smtp(socketserver.StreamRequestHandler):
    """As much of a mail server as a client needs."""

    def handle(self):
        say = lambda line: self.wfile.write(line.encode() + b"\r\n")  # noqa: E731
        say("220 here")
        while line := self.rfile.readline():
            word = line.decode().strip().upper()
            if word.startswith("DATA"):
                say("354 go on")
                text = b""
                while (part := self.rfile.readline()) != b".\r\n":
                    text += part
                self.server.got.append(text.decode())
            elif word.startswith("QUIT"):
                say("221 bye")
                return
            elif word.startswith("RCPT"):
                self.server.rcpt.append(line.decode())
            say("250 ok")


@pytest.fixture
def receiver(settings):
    settings.OUTBOUND_ALLOW, settings.OUTBOUND_HTTP = ["127.0.0.0/8"], True
    server = Receiver()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def world(db):
    return make_people()


def hook(world, receiver, **fields):
    return targets.create(actor=world.bob, name="chat", channel="webhook", address=receiver.url, **fields)


def due_now():
    NotificationDelivery.objects.update(next_attempt_at=timezone.now() - timedelta(seconds=1))


@pytest.mark.django_db
def test_a_webhook_gets_what_happened_signed(world, receiver, caplog):
    _target, secret = hook(world, receiver)
    apply(world)
    assert receiver.got == []  # nothing goes out in the transaction
    assert outbox.send_due() == 1
    headers, body = receiver.got[0]
    said = json.loads(body)
    assert (said["event"], said["request"]["target"], said["request"]["kind"], said["by"]) == (
        "submitted",
        "order_topic",
        "topic.create",
        "alice",
    )
    assert said["delivery"] == headers["X-Mqadmin-Delivery"] == str(NotificationDelivery.objects.get().pk)
    assert receiver.url not in caplog.text  # whoever knows the address of a chat's webhook can write there
    signed = hmac.new(secret.encode(), headers["X-Mqadmin-Timestamp"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["X-Mqadmin-Signature"] == f"sha256={signed}"
    assert NotificationDelivery.objects.get().state == State.SENT
    assert outbox.send_due() == 0


@pytest.mark.django_db
def test_what_was_sent_long_ago_is_forgotten_and_what_waits_never(world, receiver):
    hook(world, receiver)
    apply(world)
    long_ago = timezone.now() - timedelta(days=91)
    NotificationDelivery.objects.update(created_at=long_ago)
    assert outbox.forget(limit=10) == 0
    assert outbox.send_due() == 1
    NotificationDelivery.objects.update(created_at=timezone.now() - timedelta(days=89))
    assert outbox.forget(limit=10) == 0
    NotificationDelivery.objects.update(created_at=long_ago)
    assert outbox.forget(limit=10) == NotificationDelivery.objects.filter(state=State.SENT).count() + 1 == 1


@pytest.mark.django_db
def test_what_is_refused_is_tried_again_later_and_given_up_in_the_end(world, receiver):
    hook(world, receiver)
    apply(world)
    receiver.answers = [500, 404]
    outbox.send_due()
    row = NotificationDelivery.objects.get()
    assert (row.state, row.attempts, "500" in row.last_error, row.next_attempt_at > timezone.now()) == (State.WAITING, 1, True, True)
    assert outbox.send_due() == 0
    NotificationDelivery.objects.update(attempts=outbox.MAX_ATTEMPTS - 1)
    due_now()
    outbox.send_due()
    row.refresh_from_db()
    assert (row.state, "404" in row.last_error) == (State.FAILED, True)
    outbox.retry(actor=world.bob, delivery=row)
    outbox.send_due()
    row.refresh_from_db()
    assert (row.state, row.last_error, len({json.loads(body)["delivery"] for _headers, body in receiver.got})) == (State.SENT, "", 1)
    with pytest.raises(Problem):
        outbox.retry(actor=world.bob, delivery=row)


@pytest.mark.django_db
def test_an_address_inside_is_neither_stored_nor_reached(world, receiver, settings, api2_as_bob):
    hook(world, receiver)
    apply(world)
    settings.OUTBOUND_ALLOW = []
    outbox.send_due()  # the allowance was taken back after the target was made
    assert (receiver.got, "not allowed" in NotificationDelivery.objects.get().last_error) == ([], True)
    refused = api2_as_bob("POST", "notification-targets", {"name": "evil", "channel": "webhook", "address": "http://127.0.0.1:1/x"})
    assert (refused.status_code, refused.body["code"], refused.body["errors"][0]["pointer"]) == (400, "address_not_allowed", "/address")


@pytest.fixture
def api2_as_bob(world):
    from django.test import Client

    from tests.conftest import Api, token_for

    return Api(Client(), token_for(world.bob))


@pytest.mark.django_db
def test_one_receiver_that_fails_holds_up_no_other(world, receiver):
    targets.create(actor=world.bob, name="dead", channel="webhook", address="http://127.0.0.1:1/x")
    hook(world, receiver)
    apply(world)
    assert outbox.send_due() == 2
    assert len(receiver.got) == 1


@pytest.mark.django_db
def test_what_waits_follows_its_target_and_goes_nowhere_when_it_is_switched_off(world, receiver):
    target, _secret = hook(world, receiver)
    apply(world)
    other = Receiver()
    target = targets.change(actor=world.bob, target=target, address=other.url)
    assert outbox.send_due() == 1
    assert (receiver.got, len(other.got)) == ([], 1)
    workflow.decline(actor=world.bob, request=Request.objects.get(), reason="no")
    targets.change(actor=world.bob, target=target, enabled=False)
    assert outbox.send_due() == 0
    assert len(other.got) == 1
    assert set(NotificationDelivery.objects.values_list("event", "state")) == {("submitted", "sent"), ("declined", "failed")}
    other.shutdown()


@pytest.mark.django_db
def test_targets_hear_only_the_events_that_they_chose(world, receiver):
    hook(world, receiver, events=["declined"])
    apply(world)
    assert NotificationDelivery.objects.count() == 0
    workflow.decline(actor=world.bob, request=Request.objects.get(), reason="no")
    assert NotificationDelivery.objects.get().event == "declined"


@pytest.mark.django_db
def test_people_are_mailed_what_concerns_them_but_not_what_they_did_themselves(world, settings):
    settings.EMAIL_HOST = "mail.example.com"
    topic = active(world)
    NotificationDelivery.objects.all().delete()
    request = change(world, {"expected_rate": 900})
    assert [row.address for row in NotificationDelivery.objects.all()] == ["bob@example.com"]
    outbox.send_due()
    assert (mail.outbox[0].to, topic.name in mail.outbox[0].subject, "more" in mail.outbox[0].body) == (["bob@example.com"], True, True)
    workflow.approve(actor=world.bob, request=request)
    assert NotificationDelivery.objects.get(event="approved").address == "alice@example.com"


@pytest.mark.django_db
def test_who_wants_no_mails_gets_none(world, settings):
    settings.EMAIL_HOST = "mail.example.com"
    targets.set_mail(user=world.bob, wanted=False)
    apply(world)
    assert not NotificationDelivery.objects.exists()
    targets.set_mail(user=world.bob, wanted=True)
    workflow.comment(actor=world.alice, request=Request.objects.get(), text="please")
    assert NotificationDelivery.objects.get().address == "bob@example.com"


@pytest.mark.django_db
def test_without_a_mail_server_no_mail_waits(world, settings):
    settings.EMAIL_HOST = ""
    apply(world)
    assert not NotificationDelivery.objects.exists()


@pytest.mark.django_db
def test_a_real_mail_server_gets_the_mail(world, settings):
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp)
    server.got, server.rcpt = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT, settings.PUBLIC_URL = "127.0.0.1", server.server_address[1], "https://mq.example.com/"
    try:
        apply(world)
        outbox.send_due()
        row = NotificationDelivery.objects.get()
        assert (row.state, row.last_error) == (State.SENT, "")
        assert "bob@example.com" in server.rcpt[0]
        assert f"Message-ID: <{row.pk}@" in server.got[0]
        assert f"https://mq.example.com/admin/requests/{row.request_id}/" in server.got[0]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.django_db
def test_an_overdue_request_is_told_once(world, receiver):
    hook(world, receiver, events=["overdue"])
    apply(world)
    assert workflow.remind() == 0
    Request.objects.update(requested_at=timezone.now() - timedelta(hours=live.REQUEST_OVERDUE_HOURS + 1))
    assert (workflow.remind(), workflow.remind()) == (1, 0)
    outbox.send_due()
    assert [json.loads(body)["event"] for _headers, body in receiver.got] == ["overdue"]


@pytest.mark.django_db(transaction=True)
def test_what_is_rolled_back_is_not_told_and_no_transaction_is_open_while_sending(receiver):
    world = make_people()
    hook(world, receiver)
    with pytest.raises(RuntimeError), transaction.atomic():  # noqa: PT012 - the block is what is rolled back
        apply(world)
        raise RuntimeError
    assert not NotificationDelivery.objects.exists()
    apply(world)
    open_ones = []

    def client():
        open_ones.append(connection.in_atomic_block)
        return outbox._client()

    assert outbox.send_due(client=client) == 1
    assert open_ones == [False]


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_is_killed_while_sending_leaves_it_to_the_next(receiver):
    world = make_people()
    hook(world, receiver)
    apply(world)
    receiver.hold = threading.Event()
    script = "import django; django.setup(); from core.approvals import outbox; outbox.send_due()"
    name = connection.settings_dict["NAME"]
    url = live.DATABASES["default"]
    address = f"postgres://{url['USER']}:{url.get('PASSWORD', '')}@{url['HOST']}:{url['PORT']}/{name}"
    env = {
        **os.environ, "DATABASE_URL": address, "DJANGO_SETTINGS_MODULE": "mqadmin.settings", "MQADMIN_OUTBOUND_ALLOW": "127.0.0.0/8",
        "MQADMIN_OUTBOUND_HTTP": "true", "MQADMIN_ENCRYPTION_KEYS": ",".join(live.ENCRYPTION_KEYS),
    }  # fmt: skip
    worker = subprocess.Popen([sys.executable, "-c", script], env=env, cwd=live.BASE_DIR)
    try:
        until(lambda: receiver.got or worker.poll() is not None, seconds=60)
        assert receiver.got, "the worker ended before it sent anything"
    finally:
        worker.kill()
        worker.wait(30)
    receiver.hold.set()
    receiver.hold = None
    row = NotificationDelivery.objects.get()
    assert (row.state, row.attempts) == (State.WAITING, 1)
    assert outbox.send_due() == 0  # it is claimed, and nobody else sends it meanwhile
    due_now()
    assert outbox.send_due() == 1
    ids = [json.loads(body)["delivery"] for _headers, body in receiver.got]
    assert (len(ids), len(set(ids)), NotificationDelivery.objects.get().state) == (2, 1, State.SENT)


def test_the_secret_is_shown_once_and_kept_sealed(api, receiver, admin_person):
    made = api("POST", "notification-targets", {"name": "chat", "channel": "webhook", "address": receiver.url, "events": ["submitted"]})
    assert (made.status_code, len(made.body["secret"]) > 30) == (201, True)
    path = f"notification-targets/{made.body['id']}"
    assert "secret" not in api("GET", path).body
    with connection.cursor() as cursor:
        cursor.execute("SELECT secret FROM approvals_notificationtarget")
        assert made.body["secret"] not in cursor.fetchone()[0]
    renewed = api("POST", f"{path}/secret", **{"If-Match": '"1"'})
    assert (renewed.status_code, renewed.body["secret"] != made.body["secret"]) == (201, True)
    changed = api("PATCH", path, {"enabled": False}, **{"If-Match": '"2"'})
    assert (changed.status_code, changed.body["enabled"]) == (200, False)
    assert api("DELETE", path, **{"If-Match": '"3"'}).status_code == 204
    assert not NotificationTarget.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_one_process_sends_at_a_time_so_that_silent_receivers_leave_workers_for_the_store(receiver):
    world = make_people()
    hook(world, receiver)
    apply(world, "t1")
    apply(world, "t2")
    receiver.hold = threading.Event()
    threads = Threads()
    try:
        threads.start(outbox.send_due)
        until(lambda: receiver.got, seconds=60)
        assert outbox.send_due() == 0  # though one more is due
    finally:
        receiver.hold.set()
        receiver.hold = None
    threads.join(60)
    apply(world, "t3")
    assert outbox.send_due() == 1  # the lock went with the one before
    assert set(NotificationDelivery.objects.values_list("state", "attempts")) == {(State.SENT, 1)}


@pytest.mark.django_db
def test_a_call_ends_after_a_while_and_the_next_one_goes_on(world, receiver, monkeypatch):
    hook(world, receiver)
    apply(world, "t1")
    apply(world, "t2")
    monkeypatch.setattr(outbox, "BUDGET", 0.0)
    assert [outbox.send_due() for _call in range(3)] == [1, 1, 0]


@pytest.mark.django_db
def test_of_several_for_a_silent_address_one_is_tried_and_the_others_wait_without_an_attempt(world, receiver):
    dead, _secret = targets.create(actor=world.bob, name="dead", channel="webhook", address="http://127.0.0.1:1/x")
    apply(world, "t1")
    apply(world, "t2")
    hook(world, receiver)
    apply(world, "t3")
    assert outbox.send_due() == 2
    assert (len(receiver.got), sorted(dead.deliveries.values_list("attempts", flat=True))) == (1, [0, 0, 1])
    assert not dead.deliveries.filter(next_attempt_at__gt=timezone.now() + outbox.SILENCE).exists()
    receiver.answers = [500, 204]  # who answers at all is asked for each
    apply(world, "t4")
    apply(world, "t5")
    assert outbox.send_due() == 3  # the dead one once more
    assert len(receiver.got) == 3


@pytest.mark.django_db
def test_one_that_ends_its_workers_is_given_up_as_well(world, receiver):
    hook(world, receiver)
    apply(world)
    NotificationDelivery.objects.update(attempts=outbox.MAX_ATTEMPTS)  # the worker of the last attempt was killed
    outbox.send_due()
    row = NotificationDelivery.objects.get()
    assert (row.state, receiver.got) == (State.FAILED, [])
    assert row.last_error
