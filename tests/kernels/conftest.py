"""Tests of the registers of AMX are left out where there are none: nothing could be asked."""

from __future__ import annotations

import pytest

from vllm_mega.kernels import native


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `amx`, and count it as deselected, where the kernel does not use it."""
    asking = [item for item in items if item.get_closest_marker("amx")]
    if asking and not native.has_amx():
        config.hook.pytest_deselected(items=asking)
        items[:] = [item for item in items if item not in asking]
