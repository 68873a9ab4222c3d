"""The codec, against a reader written by hand from Java's documentation; `test_registry_wire.py` asks Java itself."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mqadmin_sdk.zk import properties

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \t\f\r\n\\:=#!é€😀\u0000\u0085\u2028"), max_size=30)
KEYS = TEXT.filter(bool)


def java_reader(data: bytes) -> list[tuple[str, str]]:
    """`Properties.load(InputStream)` as its documentation describes it, sharing no code with ours."""
    text = data.decode("latin-1")
    lines, position = [], 0
    while position < len(text):
        line, position = _natural_line(text, position)
        stripped = line.lstrip(" \t\f")
        if not stripped or stripped[0] in "#!":
            continue
        while _continues(stripped) and position < len(text):
            following, position = _natural_line(text, position)
            stripped = stripped[:-1] + following.lstrip(" \t\f")
        if _continues(stripped):
            stripped = stripped[:-1]
        lines.append(stripped)
    return [_split(line) for line in lines]


def _natural_line(text, position):
    end = position
    while end < len(text) and text[end] not in "\r\n":
        end += 1
    after = end + 1
    if text[end : end + 2] == "\r\n":
        after = end + 2
    return text[position:end], after


def _continues(line):
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _split(line):
    end, escaped = 0, False
    while end < len(line) and (escaped or line[end] not in "=: \t\f"):
        escaped = line[end] == "\\" and not escaped
        end += 1
    rest = line[end:].lstrip(" \t\f")
    if rest[:1] in {"=", ":"}:
        rest = rest[1:].lstrip(" \t\f")
    return _unescape(line[:end]), _unescape(rest)


def _unescape(text):
    units, position = [], 0
    while position < len(text):
        sign = text[position]
        position += 1
        if sign == "\\" and position < len(text):
            sign = text[position]
            position += 1
            if sign == "u":
                units.append(int(text[position : position + 4], 16))
                position += 4
                continue
            sign = {"t": "\t", "r": "\r", "n": "\n", "f": "\f"}.get(sign, sign)
        units.append(ord(sign))
    return b"".join(unit.to_bytes(2, "big") for unit in units).decode("utf-16-be")


@given(st.lists(st.tuples(KEYS, TEXT), max_size=8, unique_by=lambda pair: pair[0]))
@example([("gatedIps", ""), ("a b", "  x  "), ("#", "!"), ("\\", "\\\\ "), ("k", "line\nbreak\r\n\t\f")])
@example([("名", "订单😀"), ("e", "\\u0041"), (" ", " ")])
@settings(max_examples=400, deadline=None)
def test_any_text_comes_back_in_its_order(pairs):
    data = properties.dumps(pairs)
    assert java_reader(data) == pairs
    assert list(properties.loads(data).items()) == pairs
    assert data.isascii()
    assert b"\r" not in data
    assert data.count(b"\n") == len(pairs)
    assert not any(line.endswith(b" ") or line.startswith((b" ", b"#", b"!")) for line in data.split(b"\n"))


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused_with_one_error(data):
    try:
        read = properties.loads(data)
    except properties.PropertiesError:
        return
    writable = {key: value for key, value in read.items() if key and not re.search("[\ud800-\udfff]", key + value)}
    assert properties.loads(properties.dumps(writable)) == writable


def test_bytes_are_those_of_the_contract():
    assert properties.dumps([("bootAddr", "h1:9092,h2:9092"), ("gatedIps", ""), ("t", "订"), ("b", " x ")]) == (
        b"bootAddr=h1\\:9092,h2\\:9092\ngatedIps=\nt=\\u8ba2\nb=\\ x\\u0020\n"
    )


@pytest.mark.parametrize(("pairs", "why"), [([("", "x")], "name"), ([("a", None)], "text"), ([("a", "\ud800")], "surrogate")])
def test_what_properties_cannot_carry_is_refused(pairs, why):
    with pytest.raises(properties.PropertiesError, match=why):
        properties.dumps(pairs)


def test_the_last_of_a_repeated_key_counts():
    assert properties.loads(b"a=1\nb=2\na: 3\n! c=4\n") == {"a": "3", "b": "2"}
