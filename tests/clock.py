"""A clock that tests put forward."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

Forward = Callable[[float], None]


def forward(monkeypatch: pytest.MonkeyPatch) -> Forward:
    """A function after which it is so many seconds later, for all of this process."""
    real = time.time

    def set_forward(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    return set_forward


def in_seconds(seconds: float) -> datetime:
    """A moment from now."""
    return datetime.fromtimestamp(time.time() + seconds, UTC)
