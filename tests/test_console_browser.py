"""The main job in a browser, as two people do it: against a web process and a registrar on a database and a ZooKeeper root of their own."""

import os
import re
import shlex
import socket
import subprocess
import sys
import urllib.request
import uuid
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import Watched, chromium, shoot, tab_to
from django.conf import settings
from kazoo.client import KazooClient
from playwright.sync_api import expect
from registry_world import CHECKOUT, Lines, wait_for

pytestmark = pytest.mark.system
PAGES = [
    "", "topics/", "topics/apply/", "topics/order_topic/", "topics/order_topic/publication/", "topics/order_topic/retire/",
    "groups/", "groups/apply/", "groups/bill_group/", "requests/", "requests/1/", "policies/", "notifications/", "operations/",
    "shadow/", "shadow/add/", "clusters/", "clusters/add/", "clusters/builtin/", "publications/", "instances/", "audit/",
    "accounts/application/", "accounts/application/add/", "accounts/user/", "accounts/user/add/", "tokens/", "tokens/add/", "keys/",
    "sessions/", "password_change/", "messages/", "messages/send/", "delayed/", "half-messages/", "dead-letters/",
]  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def house(tmp_path_factory, django_db_setup):
    """A house of its own: nothing that happens here is seen by other tests."""
    home = tmp_path_factory.mktemp("console")
    server = settings.DATABASES["default"]
    login = f"{server['USER']}:{server['PASSWORD']}" if server["PASSWORD"] else server["USER"]
    address = f"postgres://{login}@{server['HOST']}:{server['PORT']}"
    database = f"mq_console_{uuid.uuid4().hex[:10]}"
    hosts = settings.ZOOKEEPER_HOSTS.split("/", 1)[0]
    chroot = f"/console-{uuid.uuid4().hex[:10]}"
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MQADMIN_", "PYTEST_"))},
        "DATABASE_URL": f"{address}/{database}", "ZOOKEEPER_HOSTS": hosts + chroot, "MQADMIN_SECRET_KEY": "only-for-this-test-" + "x" * 40,
        "MQADMIN_ENVIRONMENT": "test", "PYTHONUNBUFFERED": "1", "MQADMIN_ENCRYPTION_KEYS": os.environ["MQADMIN_ENCRYPTION_KEYS"],
        "MQADMIN_RATE_LIMIT": "", "MQADMIN_ANONYMOUS_RATE_LIMIT": "",
    }  # fmt: skip
    zookeeper = KazooClient(hosts=hosts)
    zookeeper.start(timeout=15)
    zookeeper.ensure_path(chroot)
    started = []
    with psycopg.connect(f"{address}/postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{database}" TEMPLATE "{server["TEST"].get("TEMPLATE") or "template1"}"')
        try:
            for arguments in (["migrate", "-v0"], ["create_people", "--file", str(home / "people")]):
                subprocess.run([sys.executable, "manage.py", *arguments], cwd=CHECKOUT, env=environment, check=True, capture_output=True)
            credentials = dict(
                shlex.split(line)[0].split("=", 1)
                for line in Path(home / "people").read_text().splitlines()
                if line and not line.startswith("#")
            )
            web = [sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
            started.append(Lines([*web, "--log-level", "error", "mqadmin.wsgi:application"], environment))
            started.append(Lines([sys.executable, "manage.py", "registrar", "--skip-checks"], environment))
            base = f"http://127.0.0.1:{port}"
            wait_for(lambda: answers(f"{base}/healthz"), 30, "the web process")
            yield SimpleNamespace(base=base, people=credentials)
        finally:
            for process in started:
                process.end()
            admin.execute(f'DROP DATABASE "{database}" WITH (FORCE)')
            zookeeper.delete(chroot, recursive=True)
            zookeeper.stop()
            zookeeper.close()


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=1).status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def browser():
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def operator(house, browser):
    watched = Watched(browser, house.base)
    watched.login(house.people["MQADMIN_OPERATOR_USER"], house.people["MQADMIN_OPERATOR_PASSWORD"])
    return watched


@pytest.fixture(scope="module")
def admin(house, browser):
    watched = Watched(browser, house.base)
    watched.login(house.people["MQADMIN_ADMIN_USER"], house.people["MQADMIN_ADMIN_PASSWORD"])
    return watched


@pytest.fixture(scope="module")
def walked(operator, admin):
    """The main job once; the tests after it look at what it left."""
    page = operator.page
    page.goto("/admin/topics/")
    expect(page.locator(".empty h2")).to_have_text("No topics yet")
    page.get_by_role("link", name="Add an application").click()
    page.fill("#id_name", "order-service")
    expect(page.locator("#id_owner option:checked")).to_have_text("operator")
    page.click("input[name=_save]")
    page.goto("/admin/topics/apply/")
    page.fill("#id_name", "order topic")
    page.select_option("#id_application", label="order-service")
    page.fill("#id_reason", "orders that were placed")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("#id_name-error")).to_contain_text("1 to 120 letters")
    page.fill("#id_name", "order_topic")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator(".messagelist")).to_contain_text("Applied for order_topic")
    expect(page.locator(".pagehead .pill")).to_have_text("Pending")
    expect(page.locator(".pagehead").get_by_role("button", name="Approve")).to_have_attribute("aria-disabled", "true")

    page = admin.page
    page.goto("/admin/requests/")
    page.locator("#rows a[data-row]").click()
    page.locator(".pagehead").get_by_role("link", name="Approve").click()
    page.select_option("#id_cluster", label="builtin · Built-in store")
    page.locator(".formfoot .btn.primary").click()
    page.goto("/admin/topics/order_topic/")
    expect(page.locator(".pagehead .pill")).to_have_text("Active")
    page.locator(".tabs").get_by_role("link", name="Publication").click()
    wait_for(lambda: refreshed(page, ".facts").find("Published") > 0, 20, "the registrar's write")
    expect(page.locator("pre.body-view")).to_contain_text("clusterName=builtin")

    page = operator.page
    page.goto("/admin/topics/order_topic/groups/")
    page.get_by_role("link", name="Apply for a group").click()
    page.fill("#id_name", "bill_group")
    page.select_option("#id_application", label="order-service")
    expect(page.locator("#id_subscriptions-0-topic")).to_have_value("order_topic")
    page.fill("#id_subscriptions-0-tags", "created || paid")
    page.get_by_role("button", name="Another topic").click()
    page.locator("[data-form-row]").nth(1).get_by_role("button", name="Remove this topic").click()
    page.fill("#id_reason", "bills")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator(".pagehead .pill")).to_have_text("Pending")

    page = admin.page
    page.goto("/admin/groups/bill_group/")
    page.get_by_role("link", name="Approve").click()
    page.get_by_role("button", name="Approve and publish").click()
    page.get_by_role("link", name="Suspend").click()
    page.fill("#id_reason", "billing is down")
    page.get_by_role("button", name="Suspend").click()
    expect(page.locator(".pagehead .pill")).to_have_text("Suspended")
    page.get_by_role("link", name="Resume").click()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".pagehead .pill")).to_have_text("Active")
    page.goto("/admin/shadow/add/")
    page.select_option("#id_application", label="order-service")
    page.fill("#id_task", "stress-1")
    page.select_option("#id_group", label="bill_group")
    page.select_option("#id_topic", label="order_topic")
    page.get_by_role("button", name="Add, switched off").click()
    page.get_by_role("link", name="Switch on").click()
    page.fill("#id_minutes", "5")
    page.fill("#id_reason", "rehearsal")
    page.get_by_role("button", name="Switch on").click()
    expect(page.locator("#rows")).to_contain_text("Running")
    expect(page.locator("[data-left]")).to_have_text(re.compile(r"[45]:\d\d"))
    page.get_by_role("link", name="Stop all: 1 is on").click()
    page.fill("#id_reason", "enough")
    page.get_by_role("button", name="Stop all").click()
    expect(page.locator("#rows")).to_contain_text("Off")

    page.goto("/admin/topics/order_topic/retire/")
    button = page.get_by_role("button", name="Retire")
    expect(button).to_have_attribute("aria-disabled", "true")
    page.fill("#id_reason", "no longer sent")
    page.fill("#id_confirm_name", "order_topic")
    expect(button).to_have_attribute("aria-disabled", "false")
    button.click()
    expect(page.locator("[role=alert]")).to_contain_text("bill_group")
    return True


def refreshed(page, selector):
    page.reload()
    return page.locator(selector).inner_text()


def test_the_main_job_goes_through_without_one_error(walked, operator, admin):
    assert walked
    assert operator.errors == []
    assert admin.errors == []


WIDTHS = (1360, 1024, 768)
# One page of each make: the colours are those of the components, which all pages share.
IN_THE_DARK = {"", "topics/", "topics/apply/", "topics/order_topic/", "topics/order_topic/retire/", "requests/", "instances/", "audit/"}
IN_THE_DARK |= {"accounts/application/", "accounts/application/add/", "messages/", "operations/"}
AXE = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}, "preload": False, "resultTypes": ["violations"]}
CONTRAST = {"runOnly": {"type": "rule", "values": ["color-contrast"]}, "preload": False, "resultTypes": ["violations"]}


def accessible(watched, options, what):
    """No violation of WCAG A or AA; the checker's own styles are refused by our policy, which is not the page's fault."""
    before = list(watched.errors)
    found = Axe().run(watched.page, options=options).response["violations"]
    watched.errors[:] = before
    assert [(v["id"], [node["html"][:200] for node in v["nodes"]]) for v in found] == [], what


def looked_at(browser, house, admin, language="en"):
    watched = Watched(browser, house.base)
    watched.context.add_cookies([*admin.context.cookies(), {"name": "django_language", "value": language, "url": house.base}])
    return watched


@pytest.mark.parametrize("part", range(2))
def test_every_page_fits_is_accessible_in_both_schemes_and_says_nothing_on_the_console(walked, house, browser, admin, part):
    assert walked
    watched = looked_at(browser, house, admin)
    for path in PAGES[part::2]:
        watched.page.emulate_media(color_scheme="light")
        watched.page.set_viewport_size({"width": 1360, "height": 860})
        watched.page.goto(f"/admin/{path}")
        accessible(watched, AXE, path)
        assert watched.overlaps() == [], path
        shoot(watched.page, path or "overview")
        for width in WIDTHS[1:]:
            watched.page.set_viewport_size({"width": width, "height": 860})
            assert watched.overflow() <= 0, (path, width)
            assert watched.overlaps() == [], (path, width)
        if path not in IN_THE_DARK:
            continue
        shoot(watched.page, f"{path or 'overview'}-768")
        watched.page.set_viewport_size({"width": 1360, "height": 860})
        watched.page.emulate_media(color_scheme="dark")
        channels = [int(part) for part in re.findall(r"\d+", watched.page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]]
        assert sum(channels) < 200, path
        accessible(watched, CONTRAST, f"{path} in the dark")
        shoot(watched.page, f"{path or 'overview'}-dark")
    assert watched.errors == []
    watched.context.close()


def test_pages_fit_and_are_accessible_in_chinese(walked, house, browser, admin):
    assert walked
    watched = looked_at(browser, house, admin, "zh-hans")
    for path in PAGES[:12:2]:
        watched.page.set_viewport_size({"width": 1360, "height": 860})
        watched.page.goto(f"/admin/{path}")
        expect(watched.page.locator("html")).to_have_attribute("lang", "zh-hans")
        accessible(watched, AXE, path)
        shoot(watched.page, f"{path or 'overview'}-zh")
        for width in WIDTHS:
            watched.page.set_viewport_size({"width": width, "height": 860})
            assert watched.overflow() <= 0, (path, width)
    assert watched.errors == []
    watched.context.close()


def test_a_topic_is_applied_for_and_approved_by_the_keyboard_alone(walked, operator, admin):
    assert walked
    page = operator.page
    page.goto("/admin/")
    page.keyboard.press("g")
    page.keyboard.press("t")
    page.wait_for_url("**/admin/topics/")
    tab_to(page, ".pagehead a[href$='/topics/apply/']")
    page.keyboard.press("Enter")
    page.wait_for_url("**/topics/apply/")
    for selector, text in (("#id_name", "keyed_topic"), ("#id_application", "order"), ("#id_reason", "without a mouse")):
        tab_to(page, selector)
        page.keyboard.type(text)
    tab_to(page, ".formfoot button")
    page.keyboard.press("Enter")
    expect(page.locator(".messagelist")).to_contain_text("keyed_topic")

    page = admin.page
    page.goto("/admin/")
    page.keyboard.press("Control+k")
    page.keyboard.type("keyed")
    expect(page.locator("#hits")).to_contain_text("keyed_topic")
    page.keyboard.press("Enter")
    page.wait_for_url("**keyed_topic**")
    tab_to(page, ".pagehead .btn.primary[href*=approve]")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"  # where one is, is seen
    page.keyboard.press("Enter")
    page.wait_for_url("**/approve/**")
    tab_to(page, ".formfoot button.primary")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "approve" not in url)
    page.goto("/admin/topics/keyed_topic/")
    wait_for(lambda: "Published" in refreshed(page, ".facts"), 20, "the registrar's write")
    assert operator.errors == []
    assert admin.errors == []


def test_a_list_is_walked_searched_saved_as_a_view_and_taken_as_a_file(walked, house, browser, admin):
    assert walked
    watched = looked_at(browser, house, admin)
    page = watched.page
    page.goto("/admin/topics/?view=all")
    page.keyboard.press("j")
    expect(page.locator("#rows a[data-row]").first).to_be_focused()
    with page.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true"):
        page.keyboard.press("r")
    expect(page.locator("#rows a[data-row]").first).to_be_focused()  # new rows, the same place
    page.keyboard.press("x")
    expect(page.locator(".bulkbar [data-picked]")).to_have_text("1")
    expect(page.locator("#rows tr.picked")).to_have_count(1)
    shoot(page, "bulk-selected")
    page.locator(".bulkbar").get_by_role("button", name="Change owner").click()
    expect(page.locator(".pagehead h1")).to_contain_text("Change owner")
    expect(page.locator("#content")).to_contain_text("_topic")
    shoot(page, "bulk-preview")
    page.locator(".formfoot").get_by_role("link", name="Cancel").click()
    page.wait_for_url("**/topics/**")
    page.keyboard.press("/")
    page.keyboard.type("order_")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=order_**")
    page.locator("summary", has_text="Columns").click()
    page.get_by_label("Owner", exact=True).uncheck()
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator("th", has_text="Owner")).to_be_hidden()
    page.locator("summary", has_text="View").click()
    page.fill("#view-name", "orders")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    shoot(page, "saved-view-menu")
    page.get_by_role("button", name="Save view").click()
    expect(page.locator("#views a[aria-current]")).to_contain_text("orders")
    page.goto("/admin/topics/")
    expect(page.locator("#views a[aria-current]")).to_contain_text("default")
    expect(page.locator("th", has_text="Owner")).to_be_hidden()
    shoot(page, "saved-view")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export CSV").click()
    lines = Path(download.value.path()).read_text("utf-8-sig").splitlines()
    assert lines[0].startswith("Name,Status,")
    assert "Owner" not in lines[0]
    assert [line.split(",")[0] for line in lines[1:]] == ["order_topic"]
    page.locator("summary", has_text="View").click()
    page.get_by_role("button", name="Delete the view").click()
    expect(page.locator(".messagelist")).to_contain_text("deleted")
    assert watched.errors == []
    watched.context.close()


def test_dark_is_switched_on_and_kept(walked, house, browser, admin):
    assert walked
    watched = looked_at(browser, house, admin)
    page = watched.page
    page.goto("/admin/")
    for _click in range(3):
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
        page.get_by_role("button", name="Light or dark").click()
    page.goto("/admin/topics/?view=all")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 18, 25)"
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    shoot(page, "keys-dark")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    page.keyboard.type("o")
    expect(page.locator("#hits li.sect").first).to_be_visible()
    shoot(page, "palette-dark")
    assert watched.errors == []
    watched.context.close()


def test_keys_palette_refresh_and_language_work(walked, admin):
    assert walked
    page = admin.page
    page.goto("/admin/")
    page.keyboard.press("g")
    page.keyboard.press("t")
    page.wait_for_url("**/admin/topics/")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.press("Escape")
    with page.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true") as answer:
        page.keyboard.press("r")
    assert answer.value.status == 200
    expect(page.locator("#rows")).to_contain_text("order_topic")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    page.keyboard.type("bill")
    expect(page.locator("#hits a")).to_have_count(1)
    page.keyboard.press("Enter")
    page.wait_for_url("**/admin/groups/bill_group/")
    page.locator(".usermenu summary").click()
    page.get_by_role("button", name="简体中文").click()
    expect(page.locator("html")).to_have_attribute("lang", "zh-hans")
    expect(page.locator(".side-nav")).to_contain_text("消费组")
    page.locator(".usermenu summary").click()
    page.get_by_role("button", name="English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    assert admin.errors == []


def test_a_refresh_that_fails_leaves_the_page_and_one_without_a_session_leads_to_the_login(walked, house, browser, admin):
    assert walked
    watched = Watched(browser, house.base)
    watched.context.add_cookies(admin.context.cookies())
    page = watched.page
    page.goto("/admin/topics/")
    for failing in (lambda route: route.fulfill(status=503, body="away"), lambda route: route.abort()):
        page.route("**/admin/topics/", failing)
        page.keyboard.press("r")
        expect(page.locator(".toast.fail")).to_have_count(1)
        expect(page.locator("#rows")).to_contain_text("order_topic")
        page.unroute("**/admin/topics/")
    watched.context.clear_cookies()
    page.keyboard.press("r")
    page.wait_for_url("**/admin/login/**")
    watched.context.close()


def test_the_login_page_is_ours_and_clean(house, browser):
    watched = Watched(browser, house.base)
    watched.page.goto("/admin/login/")
    expect(watched.page.locator(".login-head b")).to_have_text("mqadmin")
    watched.page.fill("#id_username", "admin")
    watched.page.fill("#id_password", "wrong")
    watched.page.click("input[type=submit]")
    expect(watched.page.locator(".errornote")).to_be_visible()
    assert watched.errors == []
    watched.context.close()
