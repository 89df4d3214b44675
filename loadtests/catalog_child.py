"""A reader of one bank, and a writer beside it, told by lines: python -m loadtests.catalog_child ROOT

Told to, it starts, and says how long that took and what it holds. Then for every line "add" it adds one
memory and looks for it, for "ask" its gate gets a batch of queries, and for "check" it compares all that the
gate said with every key of the bank.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import msgspec

from loadtests.catalog_bulk import draft
from loadtests.catalog_gate import Asking
from vllm_mega.bank.catalog.changes import add
from vllm_mega.bank.library import Library
from vllm_mega.gate.index.index import Index


class Started(msgspec.Struct, frozen=True):
    """What it cost until the first query could be answered."""

    memories: int
    startup_s: float
    rss_mb: float


class Added(msgspec.Struct, frozen=True):
    """One memory: seconds until its commit, and from there until the reader has it."""

    add_s: float
    seen_s: float


class Said(msgspec.Struct, frozen=True):
    """Seconds of a query, or the part of them whose best memory is the exact one."""

    value: float


def rss_mb() -> float:
    """What this process has in memory."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return round(int(kilobytes) / 1024, 1)


def main(root: str) -> None:
    """Start at the first line, then do what each says."""
    sys.stdin.readline()
    index = Index()
    before = time.perf_counter()
    with Library(root, keys=index) as library:
        seconds = time.perf_counter() - before
        asking = Asking(library, index)
        asking.ask()  # compiles what it needs for this size
        say(Started(len(library.rows), round(seconds, 2), rss_mb()))
        numbers = itertools.count(library.event)
        for line in sys.stdin:
            if line.strip() == "add":
                say(add_one(library, next(numbers)))
            else:
                say(Said(asking.ask() if line.strip() == "ask" else asking.agreement()))


def add_one(library: Library, number: int) -> Added:
    """Add the memory `number` and look for it."""
    given = draft(number)
    begin = time.perf_counter()
    add(library.catalog, [given], "bench")
    added = time.perf_counter()
    library.refresh()
    seen = time.perf_counter()
    library.get("default", f"note-{number}")  # or it ends with an error
    return Added(added - begin, seen - added)


def say(result: msgspec.Struct) -> None:
    """Answer a line with `result`."""
    print(msgspec.json.encode(result).decode(), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
