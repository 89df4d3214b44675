"""Rows by their names, though no name is kept."""

from __future__ import annotations

import pytest

from tests.gate.index_samples import row
from vllm_mega.bank.catalog.all_rows import AllRows
from vllm_mega.bank.catalog.records import MemoryName


def test_rows_are_found_by_namespace_and_id() -> None:
    rows = AllRows()
    a, b, garden = row("a"), row("b"), row("a", namespace="garden")
    rows.put([a, garden, b])
    assert dict(rows) == {MemoryName("default", "a"): a, MemoryName("default", "b"): b,
                          MemoryName("garden", "a"): garden}  # fmt: skip
    assert rows[MemoryName("garden", "a")] is garden
    assert MemoryName("garden", "b") not in rows
    assert MemoryName("nowhere", "a") not in rows
    newer = row("a", age=1.0)
    rows.put([newer])
    assert (rows[MemoryName("default", "a")], len(rows)) == (newer, 3)


def test_what_is_dropped_is_gone() -> None:
    rows = AllRows()
    rows.put([row("a"), row("b"), row("a", namespace="garden")])
    rows.drop([MemoryName("default", "a"), MemoryName("garden", "a")])
    assert list(rows) == [MemoryName("default", "b")]
    with pytest.raises(KeyError):
        rows.drop([MemoryName("garden", "a")])
