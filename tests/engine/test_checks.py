"""Checks of adapters: what goes wrong with one is told, and never raised into who asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vllm_mega.engine import checks
from vllm_mega.engine.checks import AdapterChecks
from vllm_mega.errors import AdapterError
from vllm_mega.mixture import Mixture

(COMPONENT,) = Mixture([("a" * 64, "/nowhere/adapter", 1.0)]).components


class Disk:
    """Stands for `check_adapter`."""

    def __init__(self, error: Exception | None) -> None:
        self.error, self.calls = error, 0

    def __call__(self, path: Path, *_: Any, **__: Any) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        OSError(24, "too many open files"),
        RecursionError("deep"),
        UnicodeDecodeError("utf-8", b"?", 0, 1, "no"),
    ],
)
def test_what_nobody_expected_is_told_and_asked_again_later(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    disk = Disk(error)
    monkeypatch.setattr(checks, "check_adapter", disk)
    ours = AdapterChecks({}, 8)
    assert type(error).__name__ in ours.begin(COMPONENT).result(5)
    disk.error = None
    assert ours.begin(COMPONENT).result(5), "asked again in every step of a busy engine"
    assert disk.calls == 1
    monkeypatch.setattr(checks.time, "monotonic", lambda now=checks.time.monotonic: now() + 6)
    assert ours.begin(COMPONENT).result(5) == ""
    assert ours.begin(COMPONENT).result(5) == ""
    assert disk.calls == 2


def test_a_bad_adapter_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(AdapterError("/nowhere/adapter", expected="numbers", found="NaN"))
    monkeypatch.setattr(checks, "check_adapter", disk)
    ours = AdapterChecks({}, 8)
    assert [ours.begin(COMPONENT).result(5) for _ in range(3)] == [
        "/nowhere/adapter: expected numbers, found NaN"
    ] * 3
    assert disk.calls == 1
