"""Replays of memories that do not fit: python -m loadtests.residency --output out/residency.json

A stream of requests, one memory each, against an engine with few slots and against one that holds all
memories; both take the same stream, in turn. What is compared is the time to the first token.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from loadtests.bank import default_settings, write_adapter
from loadtests.engine import Child
from loadtests.engine_child import Job, Measurement
from loadtests.machine import Machine, this_machine
from loadtests.program import Add, Program, add_dtype, at_least, fresh_log
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.models import linear_shapes, resolve_model


class Replay(msgspec.Struct, frozen=True):
    """So many memories on so many slots."""

    memories: int
    slots: int
    host: int
    """Adapters in host memory; the rest is read from disk."""


REPLAYS = (Replay(16, 8, 16), Replay(1000, 32, 128))


class Outcome(msgspec.Struct):
    """One replay, beside the same stream with all memories resident. Milliseconds to the first token."""

    replay: Replay
    ttft_p50_ms: float
    ttft_p99_ms: float
    resident_ttft_p50_ms: float
    resident_ttft_p99_ms: float
    ratio_p50: float
    """Median over the rounds of the ratio of medians."""
    ratio_p99: float
    residency: dict[str, float]
    """Counters of the engine with few slots, over all rounds."""


class Result(msgspec.Struct):
    """What the output file says."""

    machine: Machine
    rounds: int
    replays: list[Outcome]


def _adapters(root: Path, count: int) -> list[tuple[str, str]]:
    shapes, settings, made = linear_shapes(resolve_model()), default_settings(), []
    for n in tqdm(range(count), desc=f"{count} adapters", leave=False):
        folder = root / str(n)
        folder.mkdir()
        write_adapter(folder, shapes, settings, n)
        made.append((adapter_digest(folder), str(folder)))
    return made


def replay(what: Replay, dtype: str, rounds: int, log: Path, console: Console) -> Outcome:
    """Run one replay, `rounds` times, few slots and all resident in turn."""
    settings = default_settings()
    with tempfile.TemporaryDirectory(prefix="vllm-mega-replay-") as root, ExitStack() as stack:
        adapters = _adapters(Path(root), what.memories)
        modules = list(settings.modules or ())
        common = ("mega", str(resolve_model()), dtype, False, settings.rank, modules, adapters)
        few = Child(Job(*common, what.slots, what.host), log)
        stack.callback(few.close)
        resident = Child(Job(*common, what.memories, what.memories), log)
        stack.callback(resident.close)
        pairs = []
        for turn in range(-1, rounds):  # the first warms up
            pair = tuple(child.measure(Measurement("replay", 1, turn)) for child in (few, resident))
            if turn >= 0:
                pairs.append(pair)
                console.print(f"{what.memories} memories on {what.slots} slots: round {turn + 1} of {rounds}")
    mine, all_resident = ([1000 * np.array(pair[i].ttft_s) for pair in pairs] for i in (0, 1))
    return Outcome(
        what,
        ttft_p50_ms=_percentile(mine, 50),
        ttft_p99_ms=_percentile(mine, 99),
        resident_ttft_p50_ms=_percentile(all_resident, 50),
        resident_ttft_p99_ms=_percentile(all_resident, 99),
        ratio_p50=_ratio(mine, all_resident, 50),
        ratio_p99=_ratio(mine, all_resident, 99),
        residency=pairs[-1][0].residency,
    )


Times = list[NDArray[np.float64]]
"""Milliseconds, round by round."""


def _percentile(times: Times, percent: int) -> float:
    return round(float(np.percentile(np.concatenate(times), percent)), 1)


def _ratio(mine: Times, all_resident: Times, percent: int) -> float:
    ratios = (
        np.percentile(a, percent) / np.percentile(b, percent) for a, b in zip(mine, all_resident, strict=True)
    )
    return round(statistics.median(map(float, ratios)), 3)


def table(result: Result) -> Table:
    """Times to the first token, and what the worker counted."""
    columns = ("memories", "slots", "TTFT p50 ms (ratio)", "p99 ms (ratio)", "loads", "ahead", "stalls ms")
    shown = Table(*columns, title="time to the first token (ratio to all memories resident)")
    for o in result.replays:
        counts = o.residency
        shown.add_row(
            str(o.replay.memories),
            str(o.replay.slots),
            f"{o.ttft_p50_ms:.0f} ({o.ratio_p50:.2f})",
            f"{o.ttft_p99_ms:.0f} ({o.ratio_p99:.2f})",
            f"{counts['loads']:.0f}",
            f"{counts['prefetched']:.0f}",
            f"{1000 * counts['stall_seconds']:.0f}",
        )
    return shown


def measure(args: argparse.Namespace, console: Console) -> Result:
    """Run the replays; what the engines say goes beside the output."""
    log = fresh_log(args)
    machine = this_machine(args.dtype)
    outcomes = [replay(what, args.dtype, args.rounds, log, console) for what in REPLAYS]
    return Result(machine, args.rounds, outcomes)


def options(add: Add) -> None:
    """What there is beside --output."""
    add("--rounds", type=at_least(1), default=2, help="turns of every replay (default: 2)")
    add_dtype(add)


PROGRAM = Program(
    "residency", measure, table,
    "Replay 16 memories on 8 slots and 1,000 on 32, and compare the time to the first token with that of an "
    "engine that holds all of them. About 7 minutes.",
    options=options,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
