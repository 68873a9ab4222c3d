"""Where mqctl takes its settings from, how it prints, and that it shows no terminal what others wrote as it stands."""

import io
import json
import os

import pytest

from mqadmin_sdk.cli import app, settings
from mqadmin_sdk.cli.messages import _batches
from mqadmin_sdk.cli.outcomes import CommandError, Exit
from mqadmin_sdk.cli.output import Output, clean, shown

FILE = """
default = "test"

[profiles.test]
url = "https://test.example.com/"
token = "mq_of_test"
zookeeper = "zk-test:2181/mq"

[profiles.prod]
url = "https://prod.example.com"
app_key = "mqk_1"
app_secret_file = "{secret}"
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "secret").write_text("hidden\n")
    (tmp_path / "config.toml").write_text(FILE.format(secret=tmp_path / "secret"))
    for name in ("secret", "config.toml"):
        (tmp_path / name).chmod(0o600)
    return tmp_path / "config.toml"


def load(file, *, environ=None, **given):
    return settings.load(**given, environ={"MQADMIN_CONFIG": str(file), **(environ or {})})


def refused(file, **given):
    with pytest.raises(CommandError) as error:
        load(file, **given)
    assert error.value.code == Exit.USAGE
    return f"{error.value.message} {error.value.hint}"


def test_the_default_profile_is_used_and_another_one_by_its_name(file):
    found = load(file)
    assert (found.url, found.token, found.zookeeper) == ("https://test.example.com", "mq_of_test", "zk-test:2181/mq")
    found = load(file, profile="prod")
    assert (found.url, found.token, found.app_key, found.app_secret) == ("https://prod.example.com", "", "mqk_1", "hidden")
    assert load(file, environ={"MQADMIN_PROFILE": "prod"}).app_key == "mqk_1"


def test_the_environment_wins_over_the_default_profile_and_a_named_profile_over_the_environment(file):
    environ = {"MQADMIN_URL": "http://127.0.0.1:8080", "MQADMIN_TOKEN": "mq_of_environment", "MQADMIN_ZOOKEEPER": "local:2181"}
    found = load(file, environ=environ)
    assert (found.url, found.token, found.zookeeper) == ("http://127.0.0.1:8080", "mq_of_environment", "local:2181")
    found = load(file, environ=environ, profile="test")
    assert (found.url, found.token, found.zookeeper) == ("https://test.example.com", "mq_of_test", "zk-test:2181/mq")


def test_credentials_of_a_profile_never_go_to_another_address(file):
    assert load(file, url="http://elsewhere.example.com").token == ""
    assert load(file, environ={"MQADMIN_URL": "http://elsewhere.example.com"}).token == ""
    assert load(file, url="https://test.example.com").token == "mq_of_test"
    assert "not the address of the profile" in refused(file, url="http://elsewhere.example.com", profile="test")


def test_a_secret_may_be_in_a_file_that_the_environment_names(file, tmp_path):
    environ = {"MQADMIN_URL": "http://a", "MQADMIN_TOKEN_FILE": str(tmp_path / "secret")}
    assert load(file, environ=environ).token == "hidden"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_it_refuses_files_with_secrets_that_others_can_read(file, tmp_path, mode):
    file.chmod(mode)
    assert f"chmod 600 {file}" in refused(file)
    file.chmod(0o600)
    (tmp_path / "secret").chmod(mode)
    assert f"chmod 600 {tmp_path / 'secret'}" in refused(file, profile="prod")


def test_a_file_without_secrets_may_be_read_by_all(file, tmp_path):
    (tmp_path / "secret").chmod(0o600)
    file.write_text(f'[profiles.one]\nurl = "https://a"\ntoken_file = "{tmp_path / "secret"}"\n')
    file.chmod(0o644)
    assert load(file).token == "hidden"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profiles = 3", "profiles are tables"),
        ('tokn = "x"', "unknown: tokn"),
        ('[profiles.a]\ntokn = "x"', "unknown: tokn"),
        ("[profiles.a]\nurl = 3", "values are text"),
        ("[profiles.a", "config.toml:"),
        ('[profiles.a]\nurl = "x"\n[profiles.b]\nurl = "y"', "no default"),
        ('default = "c"\n[profiles.a]\nurl = "x"', "no profile “c”"),
        ('[profiles.a]\nurl = "x"\ntoken_file = "/nowhere"', "/nowhere"),
    ],
)
def test_it_refuses_what_is_wrong_in_the_file(file, text, said):
    file.write_text(text)
    assert said in refused(file)


def test_secrets_are_shown_nowhere(file):
    assert "mq_of_test" not in repr(load(file))
    assert "hidden" not in repr(load(file, profile="prod"))


# --- output -----------------------------------------------------------------------------------------------------------


def test_what_others_wrote_cannot_steer_the_terminal():
    assert clean("a\x1b[31mb\x07\x9bc\u202ed") == "a\\x1b[31mb\\x07\\x9bc\\u202ed"
    assert clean("line\n\tline 中文") == "line\n\tline 中文"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), ("", "-"), ([], "-"), (True, "yes"), (False, "no"), (0, "0"), (1.26, "1.3"), (["a", "b"], "a, b"),
        ({"a": 1}, '{"a": 1}'), ("2026-11-21T08:00:00.123Z", "2026-11-21 08:00:00"), ("\x1b", "\\x1b"),
    ],
)  # fmt: skip
def test_values_for_people(value, text, monkeypatch):
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert shown(value) == text


def test_a_table_in_a_pipe_is_aligned_uncut_and_a_row_is_a_line(capsys):
    rows = [{"name": "a", "more": {"text": "x" * 300}}, {"name": "中文", "more": {"text": "two\nlines"}}]
    Output().rows(rows, [("NAME", "name"), ("TEXT", "more.text")])
    assert capsys.readouterr().out.splitlines() == ["NAME  TEXT", "a     " + "x" * 300, "中文  two lines"]


def test_json_is_what_the_server_said(capsys):
    Output("json").rows([{"name": "a", "hidden": None}], [("NAME", "name")])
    assert json.loads(capsys.readouterr().out) == [{"name": "a", "hidden": None}]


# --- the command line ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["topics", "lst"], ["nothing"], ["topics", "list", "--nothing"], ["topics", "list", "-o", "xml"], ["lag", "--max-seconds", "soon"],
        ["watch", "no/slash"], ["watch", "/slash/"], ["send", "t"], ["send", "t", "a", "--lines"], ["send", "t", "a", "-H", "nothing"],
        ["dead", "redrive", "g", "-r", "x"], ["dead", "redrive", "g", "1", "--all", "-r", "x"], ["shadow", "off", "-r", "x"],
        ["api", "GET", "topics", "-d", "{"], ["plan", "/nowhere.yaml"], ["topics", "move", "t", "c"],
        ["messages", "list", "t", "--since", "x"], ["topics", "show", "\udcff"], ["topics", "create", "t", "-a", "\udcff", "--rate", "1",
        "--bytes", "1", "-r", "x"],
    ],
)  # fmt: skip
def test_it_refuses_wrong_usage_with_2(arguments, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MQADMIN_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MQADMIN_TOKEN", "mq_x")
    assert app.run(arguments) == 2
    assert capsys.readouterr().err


def test_without_an_address_it_says_what_to_set(monkeypatch, tmp_path, capsys):
    for name in [name for name in os.environ if name.startswith("MQADMIN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MQADMIN_CONFIG", str(tmp_path / "none"))
    assert app.run(["topics", "list"]) == 2
    assert "Set MQADMIN_URL and MQADMIN_TOKEN" in capsys.readouterr().err
    assert app.run(["watch", "/zms"]) == 2
    assert "MQADMIN_ZOOKEEPER" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_7_and_in_json_a_document(monkeypatch, capsys):
    monkeypatch.setenv("MQADMIN_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MQADMIN_TOKEN", "mq_x")
    monkeypatch.setattr("mqadmin_sdk.cli.session.TIMEOUT", 0.3)
    assert app.run(["topics", "list", "-o", "json"]) == 7
    said = json.loads(capsys.readouterr().err)
    assert said["code"] == "unreachable"
    assert "127.0.0.1:9" in said["detail"]


def test_lines_are_sent_in_requests_of_bounded_number_and_size():
    assert [len(batch) for batch in _batches(io.BytesIO(b"x\n" * 1200))] == [500, 500, 200]
    assert [len(batch) for batch in _batches(io.BytesIO((b"x" * 1_500_000 + b"\n") * 5))] == [2, 2, 1]
    assert list(_batches(io.BytesIO(b"a\r\n\nb"))) == [[b"a", b"", b"b"]]


@pytest.mark.filterwarnings("error")  # click warns of two parameters with one name
def test_every_command_has_a_help_that_says_what_it_does(capsys):
    def walk(command, words):
        assert command.help, words
        for name, one in getattr(command, "commands", {}).items():
            walk(one, [*words, name])
        assert app.run([*words, "--help"]) == 0

    walk(app.root, [])


def test_the_script_of_the_package_is_this():
    from pathlib import Path

    import mqadmin_sdk.cli

    text = (Path(__file__).resolve().parent.parent / "sdk" / "pyproject.toml").read_text()
    assert 'mqctl = "mqadmin_sdk.cli:main"' in text
    assert callable(mqadmin_sdk.cli.main)
