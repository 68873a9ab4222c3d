"""mqadmin over HTTP: signatures, several addresses, what is sent again and what never is, refusals as errors; against real servers."""

import json
import os
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from certificates import Authority

from mqadmin_sdk import (
    AppKey,
    Busy,
    ConflictError,
    ControlPlane,
    ForbiddenError,
    InvalidError,
    MqadminError,
    NotAuthenticatedError,
    NotFoundError,
    Token,
    UnavailableError,
    UnreachableError,
)
from mqadmin_sdk.http import Addresses, addresses_of, sign


@contextmanager
def server(*answers):
    """A web server that gives these answers in turn, the last one for ever: (status, document or bytes, headers), or a function."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append((self.command, self.path, dict(self.headers), body))
            answer = answers[min(len(seen), len(answers)) - 1]
            if callable(answer):
                answer = answer(self)
                if answer is None:
                    return
            status, document, headers = answer
            content = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815 - the name that the server looks for

        def log_message(self, *_):
            pass

    seen = []
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    httpd.url, httpd.seen = f"http://127.0.0.1:{httpd.server_port}", seen
    try:
        yield httpd
    finally:
        httpd.shutdown()
        httpd.server_close()


def nobody():
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def hang_up(handler):
    """The request is read, and the connection ends without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


OK = (200, {"ok": True}, {})


def test_the_signature_is_that_of_the_documented_test_vector():
    assert (
        sign(
            "ZG8gbm90IHVzZSB0aGlzIHNlY3JldCBhbnl3aGVyZQ",
            method="post",
            target=b"/api/v1/topics/paid%25topic/messages",
            timestamp="1763740800",
            nonce="0f8fad5bd9cb469fa165",
            body=b'{"body":"x"}',
        )
        == "9da6f2fad36884d8ae31a8c85a14e4c540be293676fefb908ff7ff8f2cfaff19"
    )


def test_each_request_is_signed_with_a_nonce_of_its_own():
    with server(OK) as web, closing(ControlPlane(web.url, credential=AppKey("mqk_1", "secret"))) as control:
        for _ in range(2):
            control.post("topics/paid%25topic/messages", {"body": "é"})
        control.get("topics", params={"limit": 5, "fields": "name,state"})
    nonces = set()
    for method, path, headers, body in web.seen:
        parts = dict(part.split("=") for part in headers["Authorization"].removeprefix("App ").split(", "))
        nonces.add(parts["nonce"])
        assert parts["key"] == "mqk_1"
        expected = sign("secret", method=method, target=path.encode(), timestamp=parts["timestamp"], nonce=parts["nonce"], body=body)
        assert parts["signature"] == expected
    assert len(nonces) == 3
    assert [path for _method, path, _headers, _body in web.seen] == [
        "/api/v1/topics/paid%25topic/messages", "/api/v1/topics/paid%25topic/messages", "/api/v1/topics?limit=5&fields=name%2Cstate",
    ]  # fmt: skip


def test_secrets_do_not_show_themselves():
    assert "hush" not in repr((AppKey("k", "hush"), Token("hush")))


@pytest.mark.parametrize(
    ("status", "code", "kind", "permanent"),
    [
        (400, "invalid_tag", InvalidError, True),
        (413, "body_too_large", InvalidError, True),
        (401, "wrong_credentials", NotAuthenticatedError, True),
        (403, "forbidden", ForbiddenError, True),
        (404, "not_found", NotFoundError, True),
        (409, "topic_not_active", ConflictError, True),
        (429, "backlog_full", Busy, False),
        (503, "try_again", UnavailableError, False),
    ],
)
def test_a_problem_becomes_an_error_with_its_code(status, code, kind, permanent):
    problem = {"code": code, "detail": "No.", "hint": "Ask again.", "request_id": "r1", "errors": [{"pointer": "/tag", "detail": "No."}]}
    headers = {"Content-Type": "application/problem+json", "Retry-After": "7"}
    with server((status, problem, headers)) as web, closing(ControlPlane(web.url)) as control, pytest.raises(kind) as caught:
        control.post("topics/t/messages", {})
    assert (caught.value.code, caught.value.permanent, caught.value.retry_after, caught.value.hint) == (code, permanent, 7.0, "Ask again.")
    assert len(web.seen) == 1


def test_an_answer_that_is_not_from_mqadmin_says_so():
    page = (502, b"<html><h1>Bad gateway</h1></html>", {"Content-Type": "text/html"})
    with (
        server(page) as web,
        closing(ControlPlane(web.url)) as control,
        pytest.raises(UnavailableError, match="mqadmin answered 502: 'Bad gateway'"),
    ):
        control.post("me", {})
    redirection = (302, b"", {"Location": "https://elsewhere/"})
    with server(redirection) as web, closing(ControlPlane(web.url)) as control, pytest.raises(MqadminError, match="to https://elsewhere/"):
        control.get("me")


def test_a_success_that_is_not_of_mqadmin_is_none():
    page = (200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
    with server(page) as web, closing(ControlPlane(web.url)) as control, pytest.raises(UnreachableError, match="not of mqadmin") as caught:
        control.post("topics/t/messages", {})
    assert caught.value.unknown
    with server(page, OK) as web, closing(ControlPlane(web.url)) as control:
        assert control.get("me") == {"ok": True}  # what may be repeated is


def test_an_address_where_nothing_listens_costs_the_caller_nothing_and_is_left_out():
    with server(OK) as web, closing(ControlPlane([nobody(), web.url], balance="round_robin")) as control:
        for _ in range(10):
            assert control.post("x", {}) == {"ok": True}  # not to be repeated: nothing was sent yet
        dead = control.addresses._all[0]
        assert dead.failures == 1
        assert len(web.seen) == 10


def test_what_may_have_been_received_is_sent_again_only_if_that_does_no_harm():
    with server(hang_up, OK) as first, closing(ControlPlane(first.url)) as control:
        with pytest.raises(UnreachableError) as caught:
            control.post("x", {})
        assert caught.value.unknown
        assert len(first.seen) == 1
    with server(hang_up, hang_up, OK) as web, closing(ControlPlane(web.url)) as control:
        assert control.post("x", {}, repeat=True) == {"ok": True}
        assert len(web.seen) == 3


def test_a_fault_of_mqadmin_is_tried_again_within_the_time_only():
    refusal = (503, {"code": "database_unavailable", "detail": "Gone."}, {})
    with server(refusal, refusal, OK) as web, closing(ControlPlane(web.url)) as control:
        assert control.post("x", {}, repeat=True) == {"ok": True}
        assert len(web.seen) == 3
    with server(refusal) as web, closing(ControlPlane(web.url)) as control:
        with pytest.raises((UnavailableError, UnreachableError)):  # the time may be over while the last one waits for its answer
            control.post("x", {}, repeat=True, timeout=3)
        assert 1 < len(web.seen) < 60


def test_a_process_that_hangs_leaves_time_for_another_one():
    released = threading.Event()

    def hang(_handler):
        released.wait(20)

    with server(hang) as frozen, server(OK) as web:
        with closing(ControlPlane([frozen.url, web.url], balance="round_robin")) as control:
            try:
                assert control.post("x", {}, repeat=True, timeout=9) == {"ok": True}
            finally:
                released.set()
        assert (len(frozen.seen), len(web.seen)) == (1, 1)


def test_an_address_comes_back_after_its_time():
    addresses = Addresses({"http://a": 1, "http://b": 1}, "round_robin")
    a = addresses.choose()
    addresses.failed(a)
    assert {addresses.choose().url[-1] for _ in range(10)} == {"b"}
    assert 0 < a.until - time.monotonic() <= 1
    addresses.failed(a)
    assert 1 < a.until - time.monotonic() <= 2
    for _ in range(20):
        addresses.failed(a)
    assert a.until - time.monotonic() <= 30
    a.until = time.monotonic()
    assert {addresses.choose().url[-1] for _ in range(10)} == {"a", "b"}
    addresses.answered(a)
    assert a.failures == 0


def test_when_all_fail_the_one_that_was_left_out_first_is_tried():
    addresses = Addresses({"http://a": 1, "http://b": 1}, "round_robin")
    first, second = addresses.choose(), addresses.choose()
    addresses.failed(first)
    addresses.failed(second)
    assert addresses.choose() is first
    assert addresses.choose(tried=[first]) is second
    assert addresses.choose(tried=[first, second]) is None


def test_weights():
    robin = Addresses(addresses_of("http://a;weight=3, http://b"), "round_robin")
    assert [robin.choose().url[-1] for _ in range(8)] == ["a", "a", "b", "a"] * 2
    random = Addresses({"http://a": 3, "http://b": 1}, "random")
    share = Counter(random.choose().url[-1] for _ in range(4000))["a"] / 4000
    assert 0.7 < share < 0.8


def test_a_key_stays_at_its_address_and_only_those_of_a_failing_one_move():
    addresses = Addresses({"http://a": 1, "http://b": 2, "http://c": 1}, "hash")
    keys = [f"topic-{i}" for i in range(2000)]
    before = {key: addresses.choose(key).url[-1] for key in keys}
    assert {key: addresses.choose(key).url[-1] for key in keys} == before
    assert 0.45 < sum(host == "b" for host in before.values()) / len(keys) < 0.55
    addresses.failed(addresses._all[0])
    after = {key: addresses.choose(key).url[-1] for key in keys}
    assert all(after[key] == host for key, host in before.items() if host != "a")
    assert "a" not in after.values()


@pytest.mark.parametrize("wrong", ["", "mqadmin", "ftp://a", "http://u:p@a", "http://a?x=1", "http://a;load=3", "http://a;weight=0"])
def test_what_is_no_address_is_refused(wrong):
    with pytest.raises(ValueError):
        ControlPlane(wrong)


def test_a_forked_child_has_connections_of_its_own():
    with server(OK) as web, closing(ControlPlane(web.url)) as control:
        control.post("x", {"of": "parent"})
        control.addresses._lock.acquire()  # as another thread of the parent may hold it
        control._lock.acquire()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            try:
                os.write(write, b"ok" if control.post("x", {"of": "child"}) == {"ok": True} else b"no")
            finally:
                os._exit(0)
        control.addresses._lock.release()
        control._lock.release()
        os.close(write)
        with os.fdopen(read, "rb") as said:
            assert said.read() == b"ok"
        os.waitpid(pid, 0)
        assert control.post("x", {"of": "parent"}) == {"ok": True}  # its own connection was not disturbed
    assert [json.loads(body)["of"] for _method, _path, _headers, body in web.seen] == ["parent", "child", "parent"]


def test_a_server_with_another_ca_is_not_believed(tmp_path):
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    certificate, key, _both = ours.issue("mqadmin", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with server(OK) as web:
        web.socket = context.wrap_socket(web.socket, server_side=True)
        url = web.url.replace("http://", "https://")
        with closing(ControlPlane(url, ca=str(ours.certificate))) as control:
            assert control.post("x", {}) == {"ok": True}
        for ca in (str(others.certificate), ""):  # without one, the public ones
            with closing(ControlPlane(url, ca=ca)) as control, pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
                control.post("x", {}, timeout=3)
    assert len(web.seen) == 1


def test_after_close_nothing_is_sent():
    with server(OK) as web:
        control = ControlPlane(web.url)
        control.close()
        with pytest.raises(MqadminError, match="closed"):
            control.get("me")
