"""Bad input that every resource shares: odd JSON, wrong types, made-up cursors; each a problem of the caller, nothing changed."""

import base64

import pytest

from topics.models import Topic

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("[" * 100_000, "malformed_json"),
        ('{"a":' * 100_000, "malformed_json"),
        ('{"\\ud800": 1}', "unknown_field"),
        ('{"name": "b", "kind": "\\ud800", "address": "h:1"}', "invalid"),
        ('{"name": "b\\u0000", "kind": "kafka", "address": "h:1"}', "invalid"),
    ],
)
def test_odd_json_is_the_callers_fault(api, body, code):
    answer = api("POST", "clusters", body)
    assert (answer.status_code, answer.body["code"]) == (400, code)


@pytest.mark.parametrize("field", ["application", "owner"])
def test_a_reference_with_a_nul_is_invalid(api, topic_fields, field):
    answer = api("POST", "topics", {"name": "t", **topic_fields, field: "a\x00b"})
    assert (answer.status_code, answer.body["code"], answer.body["errors"][0]["pointer"]) == (400, "invalid", f"/{field}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 12),
        ("application", 12),
        ("reason", 1.5),
        ("expected_rate", "200"),
        ("partitions", 4.0),
        ("partitions", True),
        ("ordered", "yes"),
        ("ordered", 0),
    ],
)
def test_a_value_of_another_type_is_not_guessed_at(api, topic_fields, field, value):
    answer = api("POST", "topics", {"name": "t", **topic_fields, field: value})
    assert (answer.status_code, answer.body["code"], answer.body["errors"][0]["pointer"]) == (400, "invalid", f"/{field}")
    assert not Topic.objects.exists()


def test_a_misspelt_field_of_a_subscription_is_not_ignored(api):
    answer = api("POST", "consumer-groups", {"name": "g", "subscriptions": [{"topic": "t", "tag": "paid"}]})
    assert (answer.status_code, answer.body["errors"][0]["pointer"]) == (400, "/subscriptions/0/tag")


@pytest.mark.parametrize("path", ["clusters", "shadow-tasks", "publications", "instances"])
@pytest.mark.parametrize("position", ["p=%00", "r=1&p=%00", "o=-1", "AAAA", ""])
def test_a_made_up_cursor_is_refused(api, path, position):
    answer = api("GET", f"{path}?cursor={base64.b64encode(position.encode()).decode()}")
    assert (answer.status_code, answer.body["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("position", ["p=abc", "p=1.5", "p=-1"])
def test_a_cursor_of_numbers_is_a_number(api, position):
    answer = api("GET", f"shadow-tasks?cursor={base64.b64encode(position.encode()).decode()}")
    assert (answer.status_code, answer.body["code"]) == (400, "invalid_cursor")


@pytest.mark.parametrize("path", ["me", "messages", "delayed-messages", "clusters", "consumer-groups/g/status"])
def test_a_method_that_is_not_there_is_said_to_be_not_allowed(api, path):
    answer = api("PUT", path, {})
    assert (answer.status_code, answer.body["code"]) == (405, "method_not_allowed")


def test_asking_for_the_head_needs_what_reading_needs(api):
    assert api("HEAD", "me").status_code == 200
    assert api("HEAD", "delayed-messages").status_code == 200
