"""What all tests share."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Groups for `-n 2 --dist loadgroup`, those that take longest first; see `_group`."""
    if config.getoption("loadgroup", default=False):
        items.sort(key=lambda item: item.get_closest_marker("engine") is None)
        for item in items:
            item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    """Whom one process runs, in turn.

    The tests of a file share what is made for it. Those of the engine share one engine. Of all others that
    boot one, servers for the most part, there is room for one at a time.
    """
    file = item.nodeid.partition("::")[0]
    if item.get_closest_marker("engine") is None:
        return file
    return "engine" if file.startswith("tests/engine/") else "servers"


def pytest_collection_finish() -> None:
    """From here on, collections of garbage leave out what modules have imported: of vLLM alone a second."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Some extension modules complain of what is left at the end."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent
