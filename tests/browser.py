"""A real Chromium, and tabs that remember what they said and asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def launched() -> Iterator[Any]:
    """The machine's Chromium; one that is missing is an error, not a reason to skip."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    assert path, "no Chromium is installed: apt-get install chromium, or make browser"
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield started
        started.close()


class Watched:
    """A page's tab, and what it said and asked for."""

    def __init__(self, browser: Any, path: Any, width: int = 1280, **options: Any) -> None:
        self.tab = browser.new_page(viewport={"width": width, "height": 900}, **options)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(path if isinstance(path, str) else path.as_uri())

    def __getitem__(self, selector: str) -> Any:
        """What a selector finds."""
        return self.tab.locator(selector)

    def check(self) -> None:
        """No console message, no request but to disk, nothing run, nothing wider than the tab."""
        assert self.said == []
        assert all(url.startswith(("file:///", "data:")) for url in self.asked), self.asked
        assert self.tab.evaluate("window.broken") is None
        width, room = self.tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= room
