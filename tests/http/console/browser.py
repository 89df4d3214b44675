"""Chromium on the console, and all that must never happen there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DESKTOP, PHONE = (1280, 800), (390, 844)
_WAIT = 60_000
"""Milliseconds until what is expected must be there: these machines are busy."""
VIEWS = ("memories", "add", "chat", "probe", "jobs", "metrics")


def chromium() -> str:
    """The browser that `make browser` has found or installed."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert found, "no chromium: run `make browser`"
    return found


@contextmanager
def browser(folder: Path) -> Iterator[BrowserContext]:
    """A browser whose profile is in `folder`, where there is nothing yet."""
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder, executable_path=chromium(), args=list(SWITCHES), headless=False,
            color_scheme="light", timezone_id="UTC",
        )  # fmt: skip
        context.set_default_timeout(_WAIT)
        expect.set_options(timeout=_WAIT)
        yield context
        context.close()


def watch(context: BrowserContext, url: str) -> Iterator[Watched]:
    """A page of the server at `url`, that is checked when it was used."""
    made = Watched(context, url)
    yield made
    made.check()
    made.page.close()


class Watched:
    """A page, and what it must not have when the test ends.

    Attributes:
        page: Playwright's.
        refused: statuses of answers that the test expects to be refusals.
    """

    def __init__(self, context: BrowserContext, url: str, size: tuple[int, int] = DESKTOP) -> None:
        self.url, self.page = url, context.new_page()
        self.page.set_viewport_size({"width": size[0], "height": size[1]})
        self.refused: set[int] = set()
        self._troubles: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self._troubles.append(f"error: {error}"))
        self.page.on("request", self._request)
        self.page.on("response", self._response)

    def open(self, view: str = "memories") -> Page:
        self.page.goto(f"{self.url}/mega#/{view}")
        return self.page

    def check(self) -> None:
        """No error, nothing that the policy forbids, no refusal, no request to anybody else."""
        assert not self._troubles, "; ".join(self._troubles)

    def is_too_wide(self) -> bool:
        """Whether it must be scrolled sideways."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))

    def _console(self, message: Any) -> None:
        is_status = message.text.startswith("Failed to load resource")  # `_response` sees those
        if message.type in ("error", "warning") and not is_status:
            self._troubles.append(f"{message.type}: {message.text}")

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:")):
            self._troubles.append(f"asked {request.url}")

    def _response(self, response: Any) -> None:
        if response.status >= 400 and response.status not in self.refused:
            self._troubles.append(f"{response.status} of {response.url}")
