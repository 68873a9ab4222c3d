"""Chinese is complete: every text of the product is in the catalogue, translated, and compiled."""

import gettext
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
CATALOGUE = CHECKOUT / "locale" / "zh_Hans" / "LC_MESSAGES"
# What has texts for people; the SDK, tests and benchmarks speak English to developers.
SOURCES = ["accounts", "clusters", "consumers", "core", "messages", "mqadmin", "registry", "templates", "topics"]


def po(*arguments, **kwargs):
    return subprocess.run(arguments, capture_output=True, text=True, check=True, **kwargs).stdout


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    """The catalogue as it would be after gathering all texts anew, in a copy of the sources."""
    assert shutil.which("msgfmt"), "gettext is needed: apt-get install gettext (make test does it)"
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "migrations", "sql"))
    shutil.copytree(CHECKOUT / "locale", copy / "locale")
    setup = "import django; from django.conf import settings; settings.configure(); django.setup()"
    gather = "from django.core.management import call_command; call_command('makemessages', locale=['zh_Hans'], verbosity=0)"
    po(sys.executable, "-c", f"{setup}; {gather}", cwd=copy)
    return copy / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po"


def texts(listing):
    return [text for text in re.findall(r'^msgid (".*(?:\n".*)*)', listing, re.MULTILINE) if text != '""']


def test_no_text_is_missing_untranslated_or_guessed(gathered):
    assert texts(po("msgattrib", "--untranslated", "--no-obsolete", gathered)) == []
    assert texts(po("msgattrib", "--only-fuzzy", "--no-obsolete", gathered)) == []


def test_no_translation_is_left_over(gathered):
    assert re.findall(r'^#~ msgid ".+', gathered.read_text(), re.MULTILINE) == []


def test_every_text_that_python_marks_is_found_by_the_tool(gathered):
    """An alias such as `lazy` is invisible to xgettext: its texts would stay English and no other test would notice."""
    aliases = [
        f"{path.relative_to(CHECKOUT)}: {line.strip()}"
        for name in SOURCES
        for path in (CHECKOUT / name).rglob("*.py")
        for line in path.read_text().splitlines()
        if (found := re.search(r"gettext\w* as (\w+)", line)) and found[1] != "_"
    ]
    assert aliases == []


def test_the_compiled_catalogue_is_that_of_the_sources(tmp_path):
    po("msgfmt", "--check", "-o", tmp_path / "fresh.mo", CATALOGUE / "django.po")

    def read(path):
        with path.open("rb") as file:
            return gettext.GNUTranslations(file)._catalog

    fresh = read(tmp_path / "fresh.mo")
    assert read(CATALOGUE / "django.mo") == fresh
    assert len(fresh) > 500


def test_placeholders_are_the_same_in_both_languages():
    with (CATALOGUE / "django.mo").open("rb") as file:
        catalogue = gettext.GNUTranslations(file)._catalog
    names = re.compile(r"\{\w*\}|%\(\w+\)[sd]")
    for text, translated in catalogue.items():
        original = text[0] if isinstance(text, tuple) else text
        if original:
            assert sorted(names.findall(original)) == sorted(names.findall(translated)), original
