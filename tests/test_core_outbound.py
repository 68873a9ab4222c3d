"""Addresses that users supply: what is refused, and that the client connects to nothing else, whatever redirects and DNS say."""

import datetime as dt
import http.server
import ipaddress
import socket
import ssl
import threading
import time

import httpx
import pytest
from django.core import checks

from core import outbound
from core.errors import Problem

PURPOSE = "a webhook"


@pytest.fixture
def dns(monkeypatch):
    """Names of the test's own at the outermost edge; what is not in it resolves as ever (addresses do)."""
    names, real = {}, socket.getaddrinfo

    def getaddrinfo(host, port, *args, **kwargs):
        if host in names:
            answer = names[host]() if callable(names[host]) else names[host]
            return [row for address in answer for row in real(address, port, *args, **kwargs)]
        if host.replace(".", "").isdigit() or ":" in host:
            return real(host, port, *args, **kwargs)
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


def refused(url):
    with pytest.raises(Problem) as caught:
        outbound.check_url(url, purpose=PURPOSE, pointer="/url")
    assert caught.value.code == "address_not_allowed"
    assert caught.value.errors[0].pointer == "/url"
    return caught.value.extra["because"]


# --- the rule -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["https://8.8.8.8/x", "https://[2606:4700:4700::1111]:8443/", "https://hook.test/path?a=b", "https://hook.test./"]
)
def test_public_addresses_are_allowed(dns, url):
    dns["hook.test"] = ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"]
    outbound.check_url(url, purpose=PURPOSE)


REFUSED = {
    "loopback": "127.0.0.1 127.9.9.9 0.0.0.0 0.1.2.3 [::1] [::]",
    "private": "10.0.0.1 172.16.0.1 192.168.1.1 100.64.0.1 [fd00:ec2::254] [fec0::1] 100.100.100.200 255.255.255.255 240.0.0.1 192.0.2.1",
    "link-local": "169.254.169.254 [fe80::1]",
    "multicast": "224.0.0.1 [ff02::1]",
    "metadata": "168.63.129.16",
    "embedded": "[::ffff:127.0.0.1] [::ffff:8.8.8.8] [::ffff:7f00:1] [64:ff9b::7f00:1] [2002:7f00:1::] [2001::1] [::7f00:1]",
}


@pytest.mark.parametrize(("address", "because"), [(a, because) for because, text in REFUSED.items() for a in text.split()])
def test_it_refuses(address, because):
    assert refused(f"https://{address}/") == because


@pytest.mark.parametrize(
    "url",
    [
        "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://0177.0.0.1/", "https://127.1/", "https://127.0.0.1./", "https://0/",
        "https://127.0.0.01/", "https://a.b.0x1/", "https://1.2.3.4.5/",
        "http://8.8.8.8/", "ftp://8.8.8.8/", "file:///etc/passwd", "gopher://8.8.8.8/", "//8.8.8.8/", "8.8.8.8", "", "https://", "https:///x",
        "https://user@8.8.8.8/", "https://user:password@8.8.8.8/", "https://8.8.8.8:0/", "https://8.8.8.8:99999/", "https://8.8.8.8:x/",
        "https://8.8.8.8\\@10.0.0.1/", "https://8.8.8.8 /", "https://8.8.8.8/\r\nHost: x", "https://exa mple/", "https://-/", "https://a..b/",
        "https://" + "a" * 64 + ".test/", "https://" + "a." * 130 + "test/", "https://[::1", "https://%31%30.0.0.1/", "https://①②⑦.0.0.1/", "https://127。0。0。1/",
    ],
)  # fmt: skip
def test_it_refuses_other_forms(dns, url):
    assert refused(url) in {"form", "loopback", "private"}


def test_a_name_with_one_private_address_among_public_ones_is_refused(dns):
    dns["mixed.test"] = ["93.184.216.34", "10.0.0.7"]
    assert refused("https://mixed.test/") == "private"


def test_the_answer_does_not_tell_what_the_name_resolves_to(dns):
    dns["inside.test"] = ["10.20.30.40"]
    with pytest.raises(Problem) as caught:
        outbound.check_url("https://inside.test/", purpose=PURPOSE)
    assert "10.20" not in f"{caught.value} {caught.value.extra}"
    assert "MQADMIN_OUTBOUND_ALLOW" in caught.value.hint


def test_credentials_of_a_refused_url_are_not_repeated():
    with pytest.raises(Problem) as caught:
        outbound.check_url("https://user:hunter2@8.8.8.8/", purpose=PURPOSE)
    assert "hunter2" not in str(caught.value)


def test_a_name_that_does_not_resolve_is_another_problem(dns):
    with pytest.raises(Problem) as caught:
        outbound.check_url("https://nowhere.test/", purpose=PURPOSE)
    assert caught.value.code == "address_not_found"


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch):
    done = threading.Event()
    monkeypatch.setattr(outbound, "RESOLVE_SECONDS", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: done.wait(20) and [])
    with pytest.raises(Problem, match="cannot be resolved"):
        outbound.check_host("slow.test", 443, PURPOSE)
    done.set()


def test_networks_and_names_can_be_allowed(dns, settings):
    dns.update(
        {"a.inside.test": ["10.1.0.9"], "b.other.test": ["10.2.0.9"], "hook.test": ["192.168.7.7"], "evilhook.test": ["192.168.7.7"]}
    )
    settings.OUTBOUND_ALLOW = ["10.1.0.0/16", "hook.test", ".other.test", "fd00::/8", "192.168.0.5"]
    for url in (
        "https://a.inside.test/",
        "https://hook.test/",
        "https://b.other.test/",
        "https://[fd00::1]/",
        "https://192.168.0.5/",
        "https://10.1.2.3/",
    ):
        outbound.check_url(url, purpose=PURPOSE)
    for url in ("https://10.2.0.9/", "https://evilhook.test/", "https://192.168.0.6/", "https://[::ffff:10.1.2.3]/"):
        refused(url)


def test_http_can_be_allowed(settings):
    settings.OUTBOUND_HTTP = True
    outbound.check_url("http://8.8.8.8/", purpose=PURPOSE)


@pytest.mark.parametrize("entry", ["10.0.0.1/16", "2130706433", "10.0.0.0/99", "bad host", "http://x", "[::1]"])
def test_an_entry_that_is_neither_network_nor_name_is_an_error_of_the_check(settings, entry):
    settings.OUTBOUND_ALLOW = ["10.0.0.0/8", entry]
    found = [message for message in checks.run_checks() if message.id == "mqadmin.E003"]
    assert entry in found[0].msg


# --- the client, against real servers --------------------------------------------------------------------------------------


class Server:
    """A server on a loopback address; `answer` gets the handler."""

    def __init__(self, answer, address="127.0.0.1", context=None):
        self.asked = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append((self.path, self.headers["Host"]))
                answer(self)

            do_POST = do_GET  # noqa: N815 - the base's name

            def log_message(self, *_args):
                pass

        class Http(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
            daemon_threads = True

        self.server = Http((address, 0), Handler)
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


@pytest.fixture
def serve(settings):
    settings.OUTBOUND_HTTP = True
    settings.OUTBOUND_ALLOW = ["127.0.0.1"]
    made = []

    def make(answer, **kwargs):
        made.append(Server(answer, **kwargs))
        return made[-1]

    yield make
    for server in made:
        server.server.shutdown()
        server.server.server_close()


def ok(handler):
    body = b"fine"
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def redirect(where):
    def answer(handler):
        handler.send_response(302)
        handler.send_header("Location", where() if callable(where) else where)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def test_it_connects_to_what_is_allowed_and_keeps_the_host(dns, serve):
    server = serve(ok)
    dns["hook.test"] = ["127.0.0.1"]
    with outbound.client(purpose=PURPOSE) as client:
        assert client.post(f"http://hook.test:{server.port}/in", json={}).text == "fine"
    assert server.asked == [("/in", f"hook.test:{server.port}")]


def test_it_refuses_at_the_moment_of_connecting(dns, serve):
    server = serve(ok, address="127.0.0.2")
    dns["hook.test"] = ["127.0.0.2"]
    with outbound.client(purpose=PURPOSE) as client, pytest.raises(Problem, match="own machine"):
        client.get(f"http://hook.test:{server.port}/")
    assert server.asked == []


def test_dns_that_changes_after_the_check_gains_nothing(dns, serve):
    public, inside = serve(ok), serve(ok, address="127.0.0.2")
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    dns["rebind.test"] = lambda: answers.pop(0) if len(answers) > 1 else answers[0]
    outbound.check_url(f"http://rebind.test:{inside.port}/", purpose=PURPOSE)  # the first answer: allowed
    with outbound.client(purpose=PURPOSE) as client, pytest.raises(Problem) as caught:
        client.get(f"http://rebind.test:{inside.port}/")  # the second: not
    assert caught.value.code == "address_not_allowed"
    assert (public.asked, inside.asked) == ([], [])


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(dns, serve):
    server = serve(ok)
    asked = []
    dns["hook.test"] = lambda: asked.append(1) or (["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"])
    with outbound.client(purpose=PURPOSE) as client:
        assert client.get(f"http://hook.test:{server.port}/").status_code == 200
    assert len(asked) == 1


@pytest.mark.parametrize(
    "where",
    [
        "http://127.0.0.2:{port}/",
        "http://inside.test:{port}/",
        "http://[::1]:{port}/",
        "ftp://127.0.0.1/",
        "http://u:p@127.0.0.1:{port}/",
        "http://2130706434:{port}/",
    ],
)
def test_a_redirect_is_checked_like_the_first_address(dns, serve, where):
    inside = serve(ok, address="127.0.0.2")
    dns["inside.test"] = ["127.0.0.2"]
    server = serve(redirect(where.format(port=inside.port)))
    with outbound.client(purpose=PURPOSE) as client, pytest.raises(Problem) as caught:
        client.get(f"http://127.0.0.1:{server.port}/")
    assert caught.value.code == "address_not_allowed"
    assert inside.asked == []


def test_an_allowed_redirect_is_followed_and_a_loop_ends(dns, serve):
    target = serve(ok)
    with outbound.client(purpose=PURPOSE) as client:
        assert client.get(f"http://127.0.0.1:{serve(redirect(f'http://127.0.0.1:{target.port}/')).port}/").text == "fine"
    loop = serve(redirect("/again"))
    with outbound.client(purpose=PURPOSE, redirects=2) as client, pytest.raises(httpx.TooManyRedirects):
        client.get(f"http://127.0.0.1:{loop.port}/")
    assert len(loop.asked) == 3
    with outbound.client(purpose=PURPOSE, redirects=0) as client:
        assert client.get(f"http://127.0.0.1:{loop.port}/").status_code == 302


def test_ipv6_is_pinned_too(dns, serve, settings):
    settings.OUTBOUND_ALLOW = ["::1"]
    server = serve(ok, address="::1")
    dns["six.test"] = ["::1"]
    with outbound.client(purpose=PURPOSE) as client:
        assert client.get(f"http://six.test:{server.port}/").text == "fine"
        assert client.get(f"http://[::1]:{server.port}/").text == "fine"
        with pytest.raises(Problem):
            client.get(f"http://127.0.0.1:{server.port}/")


def test_the_next_address_is_tried(dns, serve, settings):
    settings.OUTBOUND_ALLOW = ["127.0.0.0/8"]
    server = serve(ok)
    dns["two.test"] = ["127.0.0.3", "127.0.0.1"]
    with outbound.client(purpose=PURPOSE) as client:
        assert client.get(f"http://two.test:{server.port}/").text == "fine"


def test_a_proxy_of_the_environment_is_not_used(serve, monkeypatch):
    proxy, server = serve(ok), serve(ok)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.port}")
    with outbound.client(purpose=PURPOSE) as client:
        client.get(f"http://127.0.0.1:{server.port}/")
    assert (len(proxy.asked), len(server.asked)) == (0, 1)


def test_a_large_answer_is_ended(serve):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        with_room = b"x" * 65536
        try:
            for _ in range(1000):
                handler.wfile.write(with_room)
        except OSError:
            pass

    with outbound.client(purpose=PURPOSE, max_bytes=200_000) as client, pytest.raises(httpx.HTTPError, match="too large"):
        client.get(f"http://127.0.0.1:{serve(endless).port}/")


@pytest.mark.parametrize("part", ["headers", "body"])
def test_an_answer_that_drips_is_ended(serve, part):
    released = threading.Event()

    def dripping(handler):
        if part == "body":
            handler.send_response(200)
            handler.end_headers()
        else:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        try:
            while not released.wait(0.05):
                handler.wfile.write(b"x")
        except OSError:
            pass

    started = time.monotonic()
    try:
        with outbound.client(purpose=PURPOSE, timeout=0.5) as client, pytest.raises(httpx.TimeoutException):
            client.get(f"http://127.0.0.1:{serve(dripping).port}/")
    finally:
        released.set()
    assert time.monotonic() - started < 20  # it never ends by itself


def test_a_compressed_answer_that_nobody_asked_for_is_refused(serve):
    def zipped(handler):
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"zz")

    with outbound.client(purpose=PURPOSE) as client, pytest.raises(httpx.DecodingError):
        client.get(f"http://127.0.0.1:{serve(zipped).port}/")


def test_a_name_that_is_gone_is_an_error_of_the_network(dns, serve):
    with outbound.client(purpose=PURPOSE) as client, pytest.raises(httpx.ConnectError):
        client.get("http://nowhere.test/")


def authority(path, name):
    """A certificate for a name, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + pem)
    return pem.decode()


def test_tls_keeps_the_name_while_the_address_is_pinned(dns, serve, tmp_path):
    pem = authority(tmp_path / "hook.pem", "hook.test")
    told, context = [], ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "hook.pem")
    context.sni_callback = lambda _socket, name, _context: told.append(name)
    server = serve(ok, context=context)
    dns.update({"hook.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]})
    with outbound.client(purpose=PURPOSE, verify=ssl.create_default_context(cadata=pem)) as client:
        assert client.get(f"https://hook.test:{server.port}/").text == "fine"
        assert told == ["hook.test"]
        with pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
            client.get(f"https://other.test:{server.port}/")
    with outbound.client(purpose=PURPOSE) as client, pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
        client.get(f"https://hook.test:{server.port}/")  # unknown authority


# --- probes ---------------------------------------------------------------------------------------------------------------


def test_a_probe_says_reachable_unreachable_or_why_it_did_not_probe(dns, serve, settings):
    server = serve(ok)
    assert outbound.reachable("127.0.0.1", server.port).state == "reachable"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        answer = outbound.reachable("127.0.0.1", closed.getsockname()[1])
    assert (answer.state, answer.detail) == ("unreachable", "Connection refused")
    assert outbound.reachable("nowhere.test", 9092).state == "unreachable"
    settings.OUTBOUND_ALLOW = []
    answer = outbound.reachable("127.0.0.1", server.port)
    assert answer == outbound.Probe("not_probed", "Not probed: private address, allow it with MQADMIN_OUTBOUND_ALLOW.")
    assert outbound.reachable("[::1]", 9092).state == "not_probed"
    assert outbound.reachable("2130706433", 9092).state == "not_probed"


def test_every_special_network_of_the_registries_is_refused():
    """IANA's special-purpose registries, each block by its first and last address."""
    blocks = (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/29 192.0.2.0/24 192.168.0.0/16 "
        "198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 ::/127 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48 "
        "100::/64 2001::/32 2001:2::/48 2001:db8::/32 2002::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8"
    )
    for block in blocks.split():
        network = ipaddress.ip_network(block)
        assert outbound.why_not(network[0]), block
        assert outbound.why_not(network[-1]), block
