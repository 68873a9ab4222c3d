"""Whose address is believed, and what every answer tells browsers."""

import pytest
from django.test import Client, RequestFactory

from core.middleware import client_address


@pytest.mark.parametrize(
    ("peer", "header", "trusted", "expected"),
    [
        ("203.0.113.9", "10.9.9.9", [], "203.0.113.9"),  # nobody is believed
        ("203.0.113.9", "10.9.9.9", ["10.0.0.0/8"], "203.0.113.9"),  # not a proxy of ours
        ("10.0.0.1", "203.0.113.9", ["10.0.0.0/8"], "203.0.113.9"),
        ("10.0.0.1", "1.2.3.4, 203.0.113.9", ["10.0.0.0/8"], "203.0.113.9"),  # what the client made up stands further left
        ("10.0.0.1", "1.2.3.4, 203.0.113.9, 10.0.0.2", ["10.0.0.0/8"], "203.0.113.9"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", ["10.0.0.0/8"], "10.0.0.3"),
        ("10.0.0.1", "<script>", ["10.0.0.0/8"], "10.0.0.1"),
        ("10.0.0.1", "", ["10.0.0.0/8"], "10.0.0.1"),
        ("::1", "2001:db8::7", ["::1", "10.0.0.0/8"], "2001:db8::7"),
        ("", "1.2.3.4", ["10.0.0.0/8"], ""),
    ],
)
def test_the_address_of_the_client(settings, peer, header, trusted, expected):
    settings.TRUSTED_PROXIES = trusted
    assert client_address(RequestFactory().get("/", headers={"X-Forwarded-For": header}, REMOTE_ADDR=peer)) == expected


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["/healthz", "/admin/login/", "/api/v1/nothing"])
def test_every_answer_has_the_headers_of_a_careful_site(address):
    answer = Client().get(address)
    assert "camera=()" in answer["Permissions-Policy"]
    assert answer["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == "same-origin"
    assert "default-src 'self'" in answer["Content-Security-Policy"]
    assert "unsafe" not in answer["Content-Security-Policy"]
