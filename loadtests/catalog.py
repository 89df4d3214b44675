"""The benchmark of the catalog: python -m loadtests.catalog --output out/bench-bank.json

Banks of several sizes, each with a process that follows it and has a gate. They take turns: each adds one
memory and looks for it, and asks its gate; so what the machine does besides falls on all of them alike.
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
import numpy as np
from rich.console import Console
from rich.table import Table

from loadtests.catalog_bulk import make
from loadtests.catalog_child import Added, Said, Started
from loadtests.line_process import LineProcess
from loadtests.machine import this_machine
from loadtests.program import Add, Program, at_least
from vllm_mega.output import write_json

SIZES = (100, 10_000, 100_000, 1_000_000)
ROUNDS = 200
MOST_ADD_MS, MOST_SEEN_MS, MOST_RATIO = 20.0, 5.0, 1.5
MOST_GATE_MS, MOST_START_S, LEAST_AGREEMENT = 10.0, 10.0, 0.99
SMALL, MOST_SMALL_GATE_MS = 10_000, 2.0
"""For banks of so many memories and fewer the gate has less time."""


Turn = tuple[Added, float]
"""One memory added, and the seconds of a query."""


class Row(msgspec.Struct, frozen=True):
    """A bank of `n` memories; milliseconds are medians, but for those that say otherwise."""

    n: int
    add_ms: float
    """One memory, until it is committed."""
    seen_ms: float
    """From the commit until a following reader has it."""
    gate_p99_ms: float
    """Of a query in a batch of 32, without embedding: 99 % of the batches take no longer."""
    agreement: float
    """The part of the queries whose best memory is that of an exact search."""
    startup_s: float
    """Of reader and gate, keys included."""
    rss_mb: float
    """Of their process, with all rows and all keys."""


class Child(LineProcess):
    """A process that follows one bank."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, "-m", "loadtests.catalog_child", str(root)]
        super().__init__(f"the reader of {root}", command)
        self.started = msgspec.json.decode(self.line(), type=Started)

    def add(self) -> Added:
        """Add one memory and look for it."""
        return msgspec.json.decode(self.line(b"add"), type=Added)

    def ask(self) -> float:
        """Seconds of a query in a batch."""
        return msgspec.json.decode(self.line(b"ask"), type=Said).value

    def agreement(self) -> float:
        """Of all that was asked."""
        return msgspec.json.decode(self.line(b"check"), type=Said).value


def row(n: int, started: Started, turns: Sequence[Turn], agreement: float) -> Row:
    """From turns to figures. Pure."""
    add_ms = 1000 * statistics.median(added.add_s for added, _ in turns)
    seen_ms = 1000 * statistics.median(added.seen_s for added, _ in turns)
    gate_ms = 1000 * float(np.quantile([asked for _, asked in turns], 0.99, method="higher"))
    add_ms, seen_ms, gate_ms = (round(figure, 2) for figure in (add_ms, seen_ms, gate_ms))
    return Row(n, add_ms, seen_ms, gate_ms, agreement, started.startup_s, started.rss_mb)


def good(rows: Sequence[Row]) -> bool:
    """Whether a change costs as much in the largest bank as in the smallest, and all stays in its limits."""
    return rows[-1].add_ms <= MOST_RATIO * rows[0].add_ms and all(map(_good, rows))


def _good(row: Row) -> bool:
    gate_ms = MOST_SMALL_GATE_MS if row.n <= SMALL else MOST_GATE_MS
    return (
        row.add_ms <= MOST_ADD_MS
        and row.seen_ms <= MOST_SEEN_MS
        and row.gate_p99_ms <= gate_ms
        and row.agreement >= LEAST_AGREEMENT
        and row.startup_s <= MOST_START_S
    )


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
        turns = [[(child.add(), child.ask()) for child in children] for _ in range(args.rounds + 5)][5:]
        columns = zip(args.memories, children, zip(*turns, strict=True), strict=True)
        return [row(n, child.started, mine, child.agreement()) for n, child, mine in columns]


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
    headers = ("memories", "add ms", "seen ms", "gate p99 ms", "agreement", "start s", "memory MB")
    shown = Table(*headers, title="one change, one query")
    for r in rows:
        shown.add_row(
            f"{r.n:,}", f"{r.add_ms:.2f}", f"{r.seen_ms:.2f}", f"{r.gate_p99_ms:.2f}", f"{r.agreement:.4f}",
            f"{r.startup_s:.2f}", f"{r.rss_mb:.0f}",
        )  # fmt: skip
    return shown


def options(add: Add) -> None:
    """What there is beside --output."""
    add("--memories", type=at_least(1), nargs="+", default=SIZES, metavar="N",
        help="sizes (default: 100 to 1,000,000)")  # fmt: skip
    add(
        "--rounds",
        type=at_least(1),
        default=ROUNDS,
        help="memories added to each bank, and batches of queries (default: %(default)s)",
    )
    add("--banks", type=Path, help="where the banks are made and kept (default: a temporary folder)")


PROGRAM = Program(
    "catalog", measure, table,
    "Add one memory to banks of several sizes, in turn, see it in a reader that follows, and ask its gate.",
    "Several minutes on 2 cores, most of them to make the largest bank (4 GB of disk). Exit code 1: a change "
    "or a query costs more than it may.",
    options, good, output="bench-bank.json",
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
