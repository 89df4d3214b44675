"""The benchmark of the catalog: python -m loadtests.catalog --output out/bench-bank.json

Banks of several sizes, each with a process that follows it. They take turns: each adds one memory, and looks
for it; so what the machine does besides falls on all of them alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests.catalog_bulk import make
from loadtests.catalog_child import Added, Started
from loadtests.line_process import LineProcess
from loadtests.machine import this_machine
from loadtests.program import Add, Program, at_least
from vllm_mega.output import write_json

SIZES = (100, 10_000, 100_000, 1_000_000)
ROUNDS = 200
MOST_ADD_MS, MOST_SEEN_MS, MOST_RATIO = 20.0, 5.0, 1.5


class Row(msgspec.Struct, frozen=True):
    """A bank of `n` memories; milliseconds are medians."""

    n: int
    add_ms: float
    """One memory, until it is committed."""
    seen_ms: float
    """From the commit until a following reader has it."""
    startup_s: float
    """Of that reader, keys included."""
    rss_mb: float
    """Of the process that follows, with all rows and all keys."""


class Child(LineProcess):
    """A process that follows one bank."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, "-m", "loadtests.catalog_child", str(root)]
        super().__init__(f"the reader of {root}", command)
        self.started = msgspec.json.decode(self.line(), type=Started)

    def add(self) -> Added:
        """Add one memory and look for it."""
        return msgspec.json.decode(self.line(), type=Added)


def row(n: int, started: Started, adds: Sequence[Added]) -> Row:
    """From turns to figures. Pure."""
    add_ms = 1000 * statistics.median(one.add_s for one in adds)
    seen_ms = 1000 * statistics.median(one.seen_s for one in adds)
    return Row(n, round(add_ms, 2), round(seen_ms, 2), started.startup_s, started.rss_mb)


def good(rows: Sequence[Row]) -> bool:
    """Whether a change costs as much in the largest bank as in the smallest, and readers see it at once."""
    small, large = rows[0], rows[-1]
    ratio = large.add_ms / small.add_ms
    return ratio <= MOST_RATIO and all(r.add_ms <= MOST_ADD_MS and r.seen_ms <= MOST_SEEN_MS for r in rows)


def measure(args: argparse.Namespace, console: Console) -> list[Row]:
    """All sizes; the machine goes beside the output."""
    write_json(args.output.with_suffix(".machine.json"), this_machine("float32"))
    with _folder(args.banks) as folder, ExitStack() as stack:
        children = []
        for n in args.memories:
            if not (folder / f"{n}.done").exists():
                console.print(f"making a bank of {n} memories")
                make(folder / str(n), n)
                (folder / f"{n}.done").touch()
            children.append(Child(folder / str(n)))
            stack.callback(children[-1].close)
        turns = [[child.add() for child in children] for _ in range(args.rounds + 5)][5:]
    columns = zip(args.memories, children, zip(*turns, strict=True), strict=True)
    return [row(n, child.started, adds) for n, child, adds in columns]


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="bench-bank-") as folder:
        yield Path(folder)


def table(rows: Sequence[Row]) -> Table:
    """A line for each size."""
    shown = Table("memories", "add ms", "seen ms", "reader's start s", "its memory MB", title="one change")
    for r in rows:
        shown.add_row(
            f"{r.n:,}", f"{r.add_ms:.2f}", f"{r.seen_ms:.2f}", f"{r.startup_s:.2f}", f"{r.rss_mb:.0f}"
        )
    return shown


def options(add: Add) -> None:
    """What there is beside --output."""
    add("--memories", type=at_least(1), nargs="+", default=SIZES, metavar="N",
        help="sizes (default: 100 to 1,000,000)")  # fmt: skip
    add(
        "--rounds",
        type=at_least(1),
        default=ROUNDS,
        help="memories added to each bank (default: %(default)s)",
    )
    add("--banks", type=Path, help="where the banks are made and kept (default: a temporary folder)")


PROGRAM = Program(
    "catalog", measure, table,
    "Add one memory to banks of several sizes, in turn, and see it in a reader that follows.",
    "Several minutes on 2 cores, most of them to make the largest bank (4 GB of disk). Exit code 1: a change "
    "costs more than it may.",
    options, good, output="bench-bank.json",
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
