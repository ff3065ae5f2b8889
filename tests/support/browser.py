"""A real browser on the console: Chromium, driven by Playwright.

One browser serves a module; each person has a context of their own, as on a computer of their own. Whatever the browser
complains of (a script that fails, a request that fails, something that the page's Content-Security-Policy had to stop) fails the
test that saw it, unless it was said to be expected.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect, sync_playwright

from support.tools import find

SCREENSHOTS = "DBSHIELD_SCREENSHOTS"
"""Names a folder that screenshots are kept in; else they go to the test's own folder."""
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 30_000
"""Milliseconds; generous, because the machine may run other things. What is there is seen at once."""
WIDTHS = {"desk": (1280, 900), "phone": (390, 844)}
SERIOUS = frozenset({"serious", "critical"})
AXE_TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")

Scheme = Literal["light", "dark"]
Width = Literal["desk", "phone"]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium with an empty profile, for as long as a module needs it."""
    path = find("chromium")
    assert path is not None, "the test is not marked needs('chromium')"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass(slots=True, kw_only=True)
class Visitor:
    """One person at one computer. `page` is their window; `complaints` is what the browser had to say."""

    base: str
    folder: Path
    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)
    expected: list[re.Pattern[str]] = field(default_factory=list)

    def open(self, path: str) -> Page:
        """Go to a page of the console."""
        self.page.goto(f"{self.base}{path}")
        return self.page

    def sign_in(self, name: str, password: str, code: str) -> None:
        """Through the form, as a person does it; the page that they are on then is their own."""
        self.open("/sign-in")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_label("Code").fill(code)
        self.page.get_by_role("button", name="Sign in").click()

    def heading(self, text: str) -> None:
        """The page has this heading."""
        expect(self.page.get_by_role("heading", level=1)).to_have_text(text)

    def main(self) -> Locator:
        return self.page.get_by_role("main")

    def look(self, scheme: Scheme = "light", width: Width = "desk") -> None:
        """See the page as in this colour scheme and at this width."""
        across, down = WIDTHS[width]
        self.page.emulate_media(color_scheme=scheme)
        self.page.set_viewport_size({"width": across, "height": down})

    def screenshot(self, name: str, *, whole: bool = True) -> Path:
        """A picture of the page, the whole of it or what is seen of it at once."""
        folder = Path(os.environ.get(SCREENSHOTS) or self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        self.page.screenshot(path=path, full_page=whole)
        return path

    def barriers(self, *, colours: bool = False) -> list[str]:
        """What of the page axe finds to be a serious or critical barrier to somebody; of its colours alone, where
        nothing else has changed since it was asked."""
        what = {"type": "rule", "values": ["color-contrast"]} if colours else {"type": "tag", "values": list(AXE_TAGS)}
        options = {"runOnly": what, "resultTypes": ["violations"]}
        found: list[dict[str, Any]] = Axe().run(self.page, options=options).response["violations"]
        return [
            f"{self.page.url}: {one['id']} ({one['impact']}): {one['help']}: {[node['html'][:200] for node in one['nodes'][:3]]}"
            for one in found
            if one["impact"] in SERIOUS
        ]

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window: what makes a phone scroll sideways."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def expects(self, *patterns: str) -> None:
        """These complaints are what the test is about."""
        self.expected += [re.compile(pattern) for pattern in patterns]

    def unexpected(self) -> list[str]:
        return [text for text in self.complaints if not any(pattern.search(text) for pattern in self.expected)]

    def hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")


@contextlib.contextmanager
def visiting(browser: Browser, base: str, folder: Path) -> Iterator[Visitor]:
    """Somebody with a browser of their own, who must not meet a complaint that nobody expected."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, reduced_motion="reduce", locale="en-GB", timezone_id="UTC"
    )
    context.set_default_timeout(PATIENCE)
    context.set_default_navigation_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    try:
        page = context.new_page()
        visitor = Visitor(base=base, folder=folder, context=context, page=page)
        # Not the bound method itself: Playwright wants to put an attribute on its object.
        page.on("console", lambda message: visitor.hear(message))  # noqa: PLW0108
        page.on("pageerror", lambda error: visitor.complaints.append(f"script: {error}"))
        yield visitor
    finally:
        context.close()
    assert not visitor.unexpected(), visitor.unexpected()
