"""A reader of one bank, and a writer beside it, told by lines: python -m loadtests.catalog_child ROOT

Told to, it starts, and says how long that took and what it holds; then for every line it adds one memory and
looks for it.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from loadtests.catalog_bulk import DIM, draft
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.changes import add
from vllm_mega.bank.catalog.follower import Follower
from vllm_mega.bank.catalog.records import MemoryName, Row


class Started(msgspec.Struct, frozen=True):
    """What the reader's start cost."""

    memories: int
    startup_s: float
    rss_mb: float


class Added(msgspec.Struct, frozen=True):
    """One memory: seconds until its commit, and from there until the reader has it."""

    add_s: float
    seen_s: float


class Matrix:
    """All keys in one array, as a gate holds them."""

    def __init__(self) -> None:
        self.keys: npt.NDArray[np.float32] = np.empty((1024, DIM), np.float32)
        self.rows: dict[MemoryName, int] = {}

    def put(self, rows: Sequence[Row], keys: npt.NDArray[np.float32]) -> None:
        """Take keys [N, D]."""
        while len(self.keys) < len(self.rows) + len(rows):
            self.keys = np.concatenate([self.keys, np.empty_like(self.keys)])
        for row, key in zip(rows, keys, strict=True):
            self.keys[self.rows.setdefault(row.name, len(self.rows))] = key

    def drop(self, names: Sequence[MemoryName]) -> None:
        """Leave their rows as they are; nothing looks for them."""
        for name in names:
            self.rows.pop(name, None)


def rss_mb() -> float:
    """What this process has in memory."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return round(int(kilobytes) / 1024, 1)


def main(root: str) -> None:
    """Start at the first line, then add one memory for every other."""
    sys.stdin.readline()
    with open_catalog(root) as catalog:
        before = time.perf_counter()
        follower = Follower(catalog, Matrix())
        seconds = time.perf_counter() - before
        say(Started(len(follower.rows), round(seconds, 2), rss_mb()))
        for number, _ in zip(itertools.count(follower.number), sys.stdin):
            given = draft(number)
            begin = time.perf_counter()
            add(catalog, [given], "bench")
            added = time.perf_counter()
            follower.refresh()
            seen = time.perf_counter()
            follower.rows[MemoryName("default", f"note-{number}")]  # or it ends with an error
            say(Added(added - begin, seen - added))
        follower.close()


def say(result: msgspec.Struct) -> None:
    """Answer a line with `result`."""
    print(msgspec.json.encode(result).decode(), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
