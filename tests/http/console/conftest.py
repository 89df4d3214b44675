"""One browser for the tests of a file, and a server and a page for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from tests.http.console.browser import Watched, browser, watch
from tests.http.console.server import ConsoleServer


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def server(tmp_path: Path) -> ConsoleServer:
    return ConsoleServer(tmp_path)


@pytest.fixture
def watched(context: BrowserContext, server: ConsoleServer) -> Iterator[Watched]:
    with server.running() as url:
        yield from watch(context, url)
