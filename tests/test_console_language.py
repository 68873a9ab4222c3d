"""Chinese is complete: every text of the product is in the catalogue, translated, and compiled."""

import gettext
import re
import shutil
import subprocess
import sys
from html import unescape
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


# Words that are the same in every language: products, keys, and what stands in ZooKeeper or in code.
NAMES = {
    "mqadmin", "zookeeper", "ctrl", "esc", "enter", "kafka", "rocketmq", "rabbitmq", "redis", "postgres", "sdk", "csv", "zms", "cluster",
    "name", "yaml", "hmac", "console",
    "http", "https", "json", "api", "rest", "url", "uuid", "openapi",
}  # fmt: skip
TAGS = re.compile(r"{%\s*(?:blocktranslate|blocktrans)\b.*?{%\s*endblocktrans(?:late)?\s*%}|{%.*?%}|{{.*?}}|{#.*?#}", re.DOTALL)
SPOKEN = re.compile(r'\b(?:title|aria-label|placeholder|alt|data-why|data-why-off)="([^"]*)"')


def literals(text):
    """What a template says that no translation reaches: text between tags, and attributes that are read aloud or shown."""
    text = re.sub(r"{% block (layout|cols|coltype|bodyclass|form_attributes) %}[^{]*{% endblock %}", " ", text)  # classes
    bare = TAGS.sub(" ", text)
    bare = re.sub(r'<(\w+) class="mono[^"]*">[^<]*</\1>', " ", bare)
    bare = re.sub(r"<(script|style|kbd|code|svg)\b.*?</\1>", " ", bare, flags=re.DOTALL)
    spoken = SPOKEN.findall(bare)
    for part in [*spoken, re.sub(r"<[^>]*>", " ", bare)]:
        yield from (word for word in re.findall(r"(?<![\w&/.#-])[A-Za-z]{3,}(?![\w;/-])", part) if word.lower() not in NAMES)


def test_the_search_for_literal_texts_finds_them():
    assert list(literals('<p title="{% translate "x" %}">{{ a }} Look here</p>')) == ["Look", "here"]
    assert list(literals('<a aria-label="Close it">{% blocktranslate %}Fine{% endblocktranslate %}</a>')) == ["Close"]


def test_no_template_says_anything_past_the_catalogue():
    found = {
        str(path.relative_to(CHECKOUT)): words
        for path in sorted((CHECKOUT / "templates").rglob("*.html"))
        if (words := list(literals(path.read_text())))
    }
    assert found == {}


@pytest.mark.django_db
def test_a_chinese_page_shows_no_text_of_the_catalogue_in_english():
    """What is translated too early, at import, stays English though the catalogue knows it."""
    from console_world import make_world
    from django.test import Client
    from django.urls import reverse

    with (CATALOGUE / "django.mo").open("rb") as file:
        catalogue = gettext.GNUTranslations(file)._catalog
    english = {
        text for text, translated in catalogue.items() if isinstance(text, str) and re.search(r"[A-Za-z]{3,} |^[A-Z][a-z]{3,}$", text)
        and translated != text and "{" not in text and "%" not in text
    }  # fmt: skip
    world = make_world()
    client = Client()
    client.force_login(world.people.alice)
    pages = [
        "index",
        "topics_list",
        "topics_apply",
        "consumers_list",
        "consumers_apply",
        "consumers_shadow",
        "clusters_list",
        "clusters_add",
    ]
    pages += [
        "registry_publications",
        "registry_releases",
        "registry_instances",
        "requests",
        "audit_list",
        "messages_list",
        "messages_send",
        "messages_dead",
    ]
    pages += ["registry_drifts", "registry_drift_policies"]
    pages += ["messages_half", "messages_check_backs"]
    pages += ["messages_delayed", "operations_list", "accounts_application_changelist", "accounts_application_add"]
    urls = [reverse(f"admin:{name}") for name in pages]
    urls += [reverse("admin:topics_detail", args=["order_topic"]), reverse("admin:topics_retire", args=["order_topic"])]
    urls += [reverse("admin:consumers_detail", args=["bill_group"]), reverse("admin:clusters_detail", args=["kfk-a"])]
    for url in urls:
        response = client.get(url, headers={"Accept-Language": "zh-hans"})
        assert response.status_code == 200, url
        html = re.sub(r"<script\b.*?</script>", " ", response.content.decode(), flags=re.DOTALL)
        shown = {unescape(text).strip() for text in [*re.split(r"<[^>]*>", html), *SPOKEN.findall(html)]}
        assert shown & english == set(), url
