"""docs/api.md: its pipeline runs as it stands, and its table has every code that the source knows."""

import ast
import os
import re
from pathlib import Path

import pytest
from conftest import token_for
from quickstart import FENCE, Block, Shell

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs" / "api.md"
ROOMS = ("accounts", "clusters", "consumers", "core", "messages", "mqadmin", "registry", "topics")
RAISED_BY = {"Problem", "conflict", "refused", "Warn", "warn"}


def _strings(node):
    match node:
        case ast.Constant(value=str() as text):
            return [text]
        case ast.IfExp(body=body, orelse=other):
            return [*_strings(body), *_strings(other)]
    return []


def codes():
    """What is the first argument of a problem, or an argument that is called code."""
    for path in (path for room in ROOMS for path in (CHECKOUT / room).rglob("*.py") if "migrations" not in path.parts):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            found = _strings(node.args[0]) if name in RAISED_BY and node.args else []
            if name in {*RAISED_BY, "invalid", "problem_response"}:
                found += [text for keyword in node.keywords if keyword.arg in {"code", "problem_code"} for text in _strings(keyword.value)]
            yield from ((code, path.relative_to(CHECKOUT)) for code in found if re.fullmatch(r"[a-z]+(_[a-z]+)*", code))


def test_every_code_of_the_source_stands_in_the_table():
    from core.api.problems import _CODES

    table = set(re.findall(r"`([a-z_]+)`", PAGE.read_text().partition("## Codes")[2]))
    known = list(codes())
    assert len(known) > 150
    missing = {f"{code} ({path})" for code, path in known if code not in table}
    assert not missing, f"say in docs/api.md what to do about: {sorted(missing)}"
    assert set(_CODES.values()) <= table


@pytest.mark.django_db(transaction=True)
def test_the_pipeline_runs_as_it_stands(live_server, admin_person, second_person, tmp_path):
    environment = {
        **os.environ, "MQADMIN_URL": live_server.url, "MQADMIN_TOKEN": token_for(admin_person),
        "MQADMIN_APPROVER_TOKEN": token_for(second_person), "NO_PROXY": "*",
    }  # fmt: skip
    shell = Shell(tmp_path, environment)
    said = None
    try:
        for kind, text in FENCE.findall(PAGE.read_text()):
            if kind == "bash":
                said = shell.type(text)
                continue
            wanted = Block(kind, text).patterns
            assert len(said) == len(wanted), said
            for pattern, line in zip(wanted, said, strict=True):
                assert re.fullmatch(pattern + ".*", line), f"{line!r} is not {pattern!r}"
    finally:
        shell.close()
