"""The loads of the GPU kernels, and the fewest bytes that they have to move."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from loadtests import kernels
from loadtests.kernels import ADAPTERS, LAYERS, WIDTH, Load, floor_bytes, routing


def test_every_request_has_adapters_of_its_own_choice() -> None:
    slot, weight = routing(Load("", 16, 2))
    assert slot.shape == weight.shape == (32, WIDTH)
    assert all(len(set(row)) == WIDTH for row in slot.tolist())
    assert np.array_equal(slot[::2], slot[1::2])
    assert len({tuple(row) for row in slot.tolist()}) > ADAPTERS
    assert (weight.sum(axis=1) == 1).all()


def test_bytes_are_adapters_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    modules: Mapping[str, tuple[int, tuple[int, ...]]] = {"one": (10, (3, 4))}
    monkeypatch.setattr(kernels, "MODULES", modules)
    assert floor_bytes(0, 5, 2) == 2 * LAYERS * 5 * (10 + 2 * 7)
    assert floor_bytes(3, 0, 2) == 2 * LAYERS * 3 * 2 * (20 + 7)
