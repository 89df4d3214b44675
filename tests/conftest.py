"""What all tests share."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest


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
