"""The benchmark of shared prefixes: python -m loadtests.prefix --output out/bench-prefix.json

Requests with a long beginning that the engine has computed before, and a short question of their own. The
base model and mixtures take turns in one engine: the time to the first token of one request, and of many at
once the time until all are answered.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests.bank import default_settings
from loadtests.engine import Child, adapters
from loadtests.engine_child import Job
from loadtests.machine import this_machine
from loadtests.prefix_child import QUESTION, Answered, Ask
from loadtests.program import Add, Program, add_dtype, at_least, fresh_log
from vllm_mega.models import resolve_model
from vllm_mega.output import write_json

PREFIXES = (500, 2000, 6000)
CONTEXT = 8192
MANY, NEW_TOKENS = 64, 32
"""Requests at once, and tokens of each of their answers."""


class Case(NamedTuple):
    """What is compared with the base model."""

    prefix: int
    mixtures: str
    start: int
    requests: int = 1

    def asks(self, turn: int, mixtures: str) -> Ask:
        """Its requests of one turn, with `mixtures`: the same questions, whatever the mixtures."""
        new = 1 if self.requests == 1 else NEW_TOKENS
        return Ask(self.prefix, mixtures, self.start, self.requests, new, f"{self} {turn}")


CASES = (
    *(Case(prefix, mixtures, prefix) for prefix in PREFIXES for mixtures in ("equal", "all-different")),
    Case(2000, "all-different", 0),
    Case(2000, "all-different", 2000, MANY),
)


class Row(msgspec.Struct, frozen=True):
    """One case: medians of milliseconds, and tokens of a prompt that were computed."""

    prefix: int
    """Tokens, in the cache from a request of the base model."""
    mixtures: str
    """equal: the same in every request. all-different: in no other request."""
    start: int
    """The position from which they act."""
    requests: int
    """At once. 1: milliseconds are to the first token; more: until all are answered."""
    base_ms: float
    ours_ms: float
    ratio: float
    """Median of the ratios of neighbours."""
    computed_tokens: float
    base_computed_tokens: float


Pair = tuple[Answered, Answered]
"""Of the base model, and of a mixture right behind it."""


def row(case: Case, pairs: Sequence[Pair]) -> Row:
    """From turns to figures. Pure."""
    base, ours = ([answered[i] for answered in pairs] for i in (0, 1))
    return Row(
        *case,
        base_ms=_ms(base),
        ours_ms=_ms(ours),
        ratio=round(statistics.median(mine.seconds / beside.seconds for beside, mine in pairs), 3),
        computed_tokens=round(statistics.mean(answer.computed for answer in ours), 1),
        base_computed_tokens=round(statistics.mean(answer.computed for answer in base), 1),
    )


def _ms(answers: Sequence[Answered]) -> float:
    return round(1000 * statistics.median(answer.seconds for answer in answers), 1)


def measure(args: argparse.Namespace, console: Console) -> list[Row]:
    """All cases in one engine; the machine, and what the engine says, go beside the output."""
    log = fresh_log(args)
    write_json(args.output.with_suffix(".machine.json"), this_machine(args.dtype))
    settings, rows = default_settings(), []
    with adapters(["default"]) as made, ExitStack() as stack:
        job = Job(
            "mega", str(resolve_model()), args.dtype, args.compiled, settings.rank,
            list(settings.modules or ()), made["default"], length=CONTEXT, caching=True,
        )  # fmt: skip
        child = Child(job, log, "loadtests.prefix_child")
        stack.callback(child.close)
        for case in CASES:
            rows.append(row(case, _turns(child, case, args.rounds if case.requests == 1 else args.many)))
            console.print(_line(rows[-1]), highlight=False)
    return rows


def _turns(child: Child, case: Case, rounds: int) -> list[Pair]:
    pairs = []
    for turn in range(-2, rounds):  # the first two fill the cache and warm up
        asked = (case.asks(turn, mixtures) for mixtures in ("none", case.mixtures))
        base, ours = (child.ask(ask, Answered) for ask in asked)
        if turn >= 0:
            pairs.append((base, ours))
    return pairs


def _line(r: Row) -> str:
    what = f"{r.prefix} + {QUESTION} tokens, {r.mixtures}, start {r.start}, {r.requests} at once"
    return f"{what}: base {r.base_ms} ms, ours {r.ours_ms} ms"


def table(rows: Sequence[Row]) -> Table:
    """A line for each case."""
    shown = Table(
        "prefix", "mixtures", "start", "at once", "base ms", "ours ms", "ratio", "computed (base)",
        title="time to the first token; of many at once, until all are answered",
    )  # fmt: skip
    for r in rows:
        shown.add_row(
            str(r.prefix), r.mixtures, str(r.start), str(r.requests), f"{r.base_ms:.0f}", f"{r.ours_ms:.0f}",
            f"{r.ratio:.2f}", f"{r.computed_tokens:.0f} ({r.base_computed_tokens:.0f})",
        )  # fmt: skip
    return shown


def options(add: Add) -> None:
    """What there is beside --output."""
    count = at_least(1)
    add("--rounds", type=count, default=15, help="turns of every case of one request (default: 15)")
    add("--many", type=count, default=3, help=f"turns of {MANY} requests at once (default: 3)")
    add_dtype(add)
    add("--compiled", action="store_true", help="a compiled engine, not an eager one")


PROGRAM = Program(
    "prefix", measure, table,
    f"Requests behind a prefix that is in the cache, with a question of {QUESTION} tokens: the base model "
    "and mixtures of two adapters in turn, in one engine.",
    "About 4 minutes on 2 cores.",
    options, output="bench-prefix.json",
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
