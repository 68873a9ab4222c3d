"""Settings: production is safe by default, every secret may come from a file, and every variable stands in docs/settings.md."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECRET = "s" * 50
SHOW = """
import json, django
from django.conf import settings
names = "DEBUG HTTPS SESSION_COOKIE_SECURE CSRF_COOKIE_SECURE SECURE_SSL_REDIRECT SECURE_HSTS_SECONDS SECRET_KEY ENCRYPTION_KEYS"
print(json.dumps({name: getattr(settings, name, None) for name in names.split()} | {"database": settings.DATABASES["default"]["NAME"]}))
"""


def started(**environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MQADMIN_") and "DATABASE" not in name}
    return subprocess.run(
        [sys.executable, "-c", SHOW], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**kept, "DJANGO_SETTINGS_MODULE": "mqadmin.settings", **environment},
    )  # fmt: skip


def test_without_a_word_production_is_safe():
    done = started(MQADMIN_SECRET_KEY=SECRET, MQADMIN_ALLOWED_HOSTS="mq.example.com")
    shown = json.loads(done.stdout)
    assert (shown["DEBUG"], shown["HTTPS"], shown["SESSION_COOKIE_SECURE"], shown["CSRF_COOKIE_SECURE"]) == (False, True, True, True)
    assert shown["SECURE_SSL_REDIRECT"] is True
    assert shown["SECURE_HSTS_SECONDS"] >= 365 * 24 * 3600
    assert shown["ENCRYPTION_KEYS"] == []  # never derived outside of debug


@pytest.mark.parametrize(
    ("environment", "https"),
    [
        ({}, False),
        ({"MQADMIN_ALLOWED_HOSTS": "localhost"}, False),
        ({"MQADMIN_ALLOWED_HOSTS": "mq.example.com", "MQADMIN_HTTPS": "false"}, False),
    ],
)
def test_one_s_own_machine_and_who_says_so_do_without_https(environment, https):
    assert json.loads(started(MQADMIN_SECRET_KEY=SECRET, **environment).stdout)["HTTPS"] is https


def test_a_short_secret_key_starts_nothing_and_is_not_shown():
    done = started(MQADMIN_SECRET_KEY="short-but-secret")
    assert done.returncode != 0
    assert "MQADMIN_SECRET_KEY has 16 characters" in done.stderr
    assert "short-but" not in done.stderr


def test_secrets_come_from_files_too(tmp_path):
    files = {"MQADMIN_SECRET_KEY": SECRET, "MQADMIN_ENCRYPTION_KEYS": "one,\ntwo", "DATABASE_URL": "postgres://u:p@127.0.0.1/from_file"}
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    shown = json.loads(started(**{f"{name}_FILE": str(tmp_path / name) for name in files}).stdout)
    assert (shown["SECRET_KEY"], shown["ENCRYPTION_KEYS"], shown["database"]) == (SECRET, ["one", "two"], "from_file")


def test_every_variable_that_the_code_reads_stands_in_the_docs():
    read = set()
    for path in ROOT.glob("*/**/*.py"):
        if path.relative_to(ROOT).parts[0] in {".venv", "tests", "benchmarks", "sdk"}:
            continue
        read |= set(
            re.findall(r"""(?:env\.\w+|environ(?:\.get|\.setdefault)?|getenv|given)[(\[]\s*["']([A-Z][A-Z0-9_]+)["']""", path.read_text())
        )
    ours = {name for name in read if name.startswith("MQADMIN_") or name in {"DATABASE_URL", "ZOOKEEPER_HOSTS", "CELERY_BROKER_URL"}}
    assert len(ours) > 25
    documented = set(re.findall(r"^\| `([A-Z0-9_]+)` ", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE))
    assert ours - documented == set()
    internal = {name for name in documented if name.startswith("MQADMIN_") and name not in ours}
    assert internal == set(), "documented, but nothing reads it"


def test_every_check_of_ours_stands_in_the_docs():
    text = (ROOT / "docs" / "settings.md").read_text()
    known = set()
    for path in ("mqadmin/checks.py", "mqadmin/service_checks.py"):
        source = (ROOT / path).read_text()
        known |= set(re.findall(r"\b([EW]0\d\d)\b", source))
    missing = {number for number in known if f"`{number}`" not in text} - {"E019", "W019"}
    assert missing == set()


def test_a_password_is_hashed_with_argon2_in_bounded_memory():
    from django.utils.module_loading import import_string

    hasher = import_string("core.passwords.Argon2")()
    encoded = hasher.encode("correct horse", hasher.salt())
    assert encoded.startswith("argon2$argon2id$v=19$m=19456,t=2,p=1$")
    assert hasher.verify("correct horse", encoded)
    assert not hasher.verify("wrong", encoded)
