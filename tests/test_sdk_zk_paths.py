"""Names of instance nodes."""

from datetime import datetime

import pytest

from mqadmin_sdk.zk import paths


def test_a_new_name_has_five_parts_of_the_layout_of_zms():
    name = paths.new_instance_name("producer", "mqadmin-python/1.0", ip="10.0.0.1", now=datetime(2026, 11, 21, 8, 0, 0, 123000))
    assert name.startswith("10.0.0.1||DEFAULT_PRODUCER||mqadmin-python-1.0||2026-11-21T08:00:00.123||")
    assert "/" not in name
    assert len(name.split("||")) == 5
    assert name != paths.new_instance_name("producer", "mqadmin-python/1.0", ip="10.0.0.1", now=datetime(2026, 11, 21, 8, 0, 0, 123000))


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1||DEFAULT_CONSUMER||zms-2||2026-11-21T08:00:00||r", "10.0.0.1||DEFAULT_PRODUCER||zms-1||r", "::1||DEFAULT_CONSUMER||x||t||r"],
)
def test_names_of_four_and_five_parts_are_read_and_written_alike(text):
    assert str(paths.parse_instance_name(text)) == text


def test_what_a_name_says():
    read = paths.parse_instance_name("10.0.0.1||DEFAULT_CONSUMER||zms-2||2026-11-21T08:00:00||r")
    assert (read.ip, read.role, read.sdk, read.registered, read.random) == ("10.0.0.1", "consumer", "zms-2", "2026-11-21T08:00:00", "r")
    assert paths.parse_instance_name("10.0.0.1||DEFAULT_PRODUCER||zms-1||r").registered == ""


@pytest.mark.parametrize(
    "text", ["", "x", "a||b||c||d", "||DEFAULT_PRODUCER||z||r", "1||DEFAULT_PRODUCER||z", "1||DEFAULT_PRODUCER||a||b||c||d"]
)
def test_other_names_are_no_instances(text):
    assert paths.parse_instance_name(text) is None


def test_shadow_consumers_are_named_by_address_and_process():
    assert paths.new_shadow_instance_name(ip="10.0.0.1", pid=7) == "10.0.0.1@-@7"
    assert (paths.parse_shadow_instance_name("10.0.0.1@-@7").pid, paths.parse_shadow_instance_name("10.0.0.1@-@x")) == (7, None)
