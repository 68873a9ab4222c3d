"""The browser of the console's tests: Debian's Chromium, headless; a page that fails on any console error or refused resource."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Page, sync_playwright

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
        self.page.set_default_timeout(10_000)
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
