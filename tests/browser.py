"""The browser of the console's tests: Debian's Chromium, headless; a page that fails on any console error or refused resource."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

PATIENCE = 45_000  # milliseconds; generous, since a machine that runs everything at once is slow and no test measures it
expect.set_options(timeout=PATIENCE)
SCREENSHOTS = Path(__file__).resolve().parent.parent / ".mqadmin" / "test" / "screenshots"
CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium."""
    assert CHROMIUM, "The console's tests need Chromium: apt-get install chromium (make test does it)"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page whose errors are kept: script errors, Content-Security-Policy reports, resources that were not there."""

    def __init__(self, browser: Any, base: str, *, scheme: str = "light", width: int = 1360, height: int = 860) -> None:
        self.context = browser.new_context(
            base_url=base, color_scheme=scheme, viewport={"width": width, "height": height}, locale="en-GB", reduced_motion="reduce"
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.errors: list[str] = []
        self.page.on("console", lambda said: self.errors.append(f"{said.type}: {said.text}") if said.type in {"error", "warning"} else None)
        self.page.on("pageerror", lambda error: self.errors.append(f"script: {error}"))
        self.page.on("response", lambda answer: self.errors.append(f"{answer.status} {answer.url}") if answer.status >= 500 else None)

    def login(self, name: str, password: str) -> None:
        """Through the form, as a person does."""
        self.page.goto("/admin/login/?next=/admin/")
        self.page.fill("#id_username", name)
        self.page.fill("#id_password", password)
        self.page.click("input[type=submit]")
        self.page.wait_for_url("**/admin/")

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def overlaps(self) -> list[str]:
        """Fields and buttons of the page that lie over each other, or are cut off by what they stand in."""
        return list(self.page.evaluate(OVERLAPS))


OVERLAPS = """() => {
    const controls = ["input", "select", "textarea", "button", "a.btn"].map(kind => "#main " + kind).join();
    const apart = "details:not([open]), dialog:not([open]), [popover], .menu, .submit-row";
    const shown = [...document.querySelectorAll(controls)].filter(e =>
        e.checkVisibility({visibilityProperty: true, opacityProperty: true}) && !e.closest(apart)
        && e.getBoundingClientRect().width > 1 && getComputedStyle(e).clip === "auto");
    const boxes = shown.map(e => [e, e.getBoundingClientRect()]);
    const said = e => e.outerHTML.slice(0, 80);
    const found = [];
    boxes.forEach(([e, a], i) => {
        for (const [f, b] of boxes.slice(i + 1)) {
            if (e.contains(f) || f.contains(e) || (e.closest("label") && e.closest("label") === f.closest("label"))) continue;
            const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            if (wide > 2 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2) found.push(said(e) + " lies over " + said(f));
        }
    });
    return found;
}"""


def shoot(page: Page, name: str) -> None:
    """Keep how the page looks, for people: `.mqadmin/test/screenshots/<name>.png`."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.png", animations="disabled")


def tab_to(page: Page, selector: str, presses: int = 120) -> None:
    """Press Tab until the element has the focus, as somebody without a mouse does."""
    for _press in range(presses):
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {selector}")
