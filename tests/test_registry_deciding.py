"""What is done about a node, case by case; pure functions."""

from types import SimpleNamespace

import pytest

from registry import rendering
from registry.deciding import decide
from registry.models import Publication


def node(data, version=7):
    return None if data is None else SimpleNamespace(data=data, stat=SimpleNamespace(version=version))


def text(generation, value="a", extra=b""):
    return b"bootAddr=%s\nmqadmin.generation=%d\n%s" % (value.encode(), generation, extra)


def row(*, generation=5, published=5, deleted=False, last=None, version=6, foreign=(), kind="properties"):
    data = text(generation, extra=b"".join(b"%s=%s\n" % (k.encode(), v.encode()) for k, v in foreign))
    return Publication(
        path="/zms/cluster/x",
        format=kind,
        data=data,
        generation=generation,
        published_generation=published,
        published_digest=rendering.digest(last or (data if published == generation else text(published))),
        deleted=deleted,
        node_version=version,
        foreign_keys=[list(pair) for pair in foreign],
    )


@pytest.mark.parametrize(
    ("case", "desired", "stands", "verdict", "edit"),
    [
        ("same bytes: it was published", row(published=4), text(5), "published", ""),
        ("our last publication: write on top", row(published=4), text(4), "write", ""),
        ("another registrar's write that is not recorded yet", row(published=2), text(4), "write", ""),
        ("ours of long ago, put back by somebody", row(published=4), text(3), "repair", "changed"),
        ("edited, generation kept", row(published=4), text(4, "evil"), "repair", "changed"),
        ("edited after our unrecorded write", row(published=4), text(5, "evil"), "repair", "changed"),
        ("a generation that we have not", row(), text(9), "behind", "changed"),
        ("no generation", row(), b"bootAddr=evil\n", "repair", "changed"),
        ("not properties", row(), b"a=\\u12\n", "repair", "changed"),
        ("there before we came", row(generation=1, published=0, last=b"-", version=None), b"bootAddr=old\n", "repair", "found"),
        (
            "there before we came, with keys of others",
            row(generation=1, published=0, last=b"-"),
            b"bootAddr=old\nteam=x\n",
            "absorb",
            "found",
        ),
        ("others changed their keys", row(), text(5, extra=b"team=x\n"), "absorb", "changed"),
        ("others removed their key", row(foreign=[("team", "x")]), text(5), "absorb", "changed"),
        ("their key is kept", row(foreign=[("team", "x")]), text(5, extra=b"team=x\n"), "published", ""),
        ("an unknown key of our own namespace is not theirs", row(), text(5, extra=b"mqadmin.old=1\n"), "repair", "changed"),
        ("deleted by others", row(), None, "repair", "deleted"),
        ("not there yet", row(generation=1, published=0, version=None), None, "write", ""),
        ("retired and gone", row(deleted=True, published=4), None, "published", ""),
        ("retired and still there", row(deleted=True, published=4), text(4), "write", ""),
        ("retired and created again by others", row(deleted=True), text(4), "repair", "created"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_decision(case, desired, stands, verdict, edit):
    decision = decide(desired, node(stands))
    assert (decision.verdict, decision.foreign_edit) == (verdict, edit), case
    assert decision.version == (7 if stands is not None else None)


def test_keys_of_unknown_origin_are_named_in_their_order():
    assert decide(row(), node(text(5, extra=b"z=1\na=2\n"))).foreign_keys == (("z", "1"), ("a", "2"))


@pytest.mark.parametrize("data", [b"", b"[1]", b'"x"', b"{", b'{"generation":true}', b'{"generation":-1}', b'{"generation":1e99}', b"\xff"])
def test_a_broken_json_node_has_no_generation(data):
    assert rendering.generation_in("json", data) is None


@pytest.mark.parametrize("value", [b"", b"-1", b"1.5", b"x", b"99999999999999999999", "٣".encode()])
def test_a_broken_generation_is_none(value):
    assert rendering.generation_in("properties", b"mqadmin.generation=" + value + b"\n") is None


@pytest.mark.parametrize("line", [b"team=\\u0000\n", b"\\u0000=x\n", b"team=\\ud800\n"])
def test_foreign_keys_that_cannot_be_stored_are_repaired_away(line):
    decision = decide(row(), node(text(5, extra=line)))
    assert (decision.verdict, decision.foreign_edit, decision.foreign_keys) == ("repair", "changed", ())


def test_json_nested_without_end_is_repaired():
    desired = row(kind="json")
    assert decide(desired, node(b"[" * 100_000)).verdict == "repair"
