"""The benchmark of the trainer: python -m loadtests.trainer --output out/bench-trainer.json

Seconds per memory, from texts to a committed bank, beside the loop that anybody writes with PEFT. Both take
turns in one process: ours, PEFT in both types, ours again.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from loadtests.account import account
from loadtests.invented import invent
from loadtests.machine import Machine, default_dtype, this_machine
from loadtests.peak import Product, products
from loadtests.plain_peft import RANK, ROWS, STEPS, TOKENS, PlainLoop, plain_loop
from loadtests.program import Add, Program, at_least, positive
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import MegaError
from vllm_mega.memories.lines import read_memories
from vllm_mega.models import resolve_model, weight_bytes
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.run.crew import LocalFitter, trained_by
from vllm_mega.training.run.outcome import Trained
from vllm_mega.training.run.session import train

PROFILED_STEPS = 3


class Turn(msgspec.Struct, frozen=True):
    """All memories, trained into an empty bank."""

    seconds: float
    """From texts to the last commit; the model was loaded before."""
    steps: float
    """Mean over the memories."""
    recalled: int
    """Memories that the trainer saw come word for word."""
    bytes: float
    """Of an adapter, mean."""
    flops: float | None
    """Of the products of this turn, counted from tokens and shapes; None: the trainer does not tell."""


class Figures(msgspec.Struct, kw_only=True):
    """What follows from the measurements. Seconds are of computing and writing, never of loading models."""

    memories: int
    words: float
    """Of a memory, mean."""
    seconds_per_memory: float
    """Mean over the turns."""
    peft_seconds_per_memory: float
    """Of the faster type."""
    speedup: float
    recalled: float
    """Part of the memories that came word for word."""
    bytes_per_memory: float
    share_of_base: float
    """An adapter's bytes by those of the base model's weights."""
    gemm_peak_gflops: float
    share_of_gemm_peak: float | None
    """FLOPs of our products by our seconds, by the peak."""


class Result(Figures, kw_only=True):
    """What the output file says."""

    machine: Machine
    load_seconds: float
    """Of our base model; not part of any other figure."""
    turns: list[Turn]
    peft: list[PlainLoop]
    gemm: list[Product]
    account: dict[str, float]
    """Percentages of the time of operations, by kind."""
    longest: dict[str, float]
    """The same by name, for the ten longest operations."""


def figures(
    memories: Sequence[NewMemory],
    turns: Sequence[Turn],
    loops: Sequence[PlainLoop],
    gemm: Sequence[Product],
    base_bytes: int,
) -> Figures:
    """From measurements to figures; `base_bytes`: of the base model's weights. Pure."""
    seconds = statistics.mean(turn.seconds for turn in turns)
    peft = min(loop.seconds for loop in loops)
    peak = max(product.gflops for product in gemm)
    flops = [turn.flops for turn in turns if turn.flops is not None]
    size = statistics.mean(turn.bytes for turn in turns)
    return Figures(
        memories=len(memories),
        words=statistics.mean(len(memory.text.split()) for memory in memories),
        seconds_per_memory=seconds / len(memories),
        peft_seconds_per_memory=peft,
        speedup=peft / (seconds / len(memories)),
        recalled=statistics.mean(turn.recalled for turn in turns) / len(memories),
        bytes_per_memory=size,
        share_of_base=size / base_bytes,
        gemm_peak_gflops=peak,
        share_of_gemm_peak=statistics.mean(flops) / seconds / (peak * 1e9) if flops else None,
    )


def our_turn(fitter: LocalFitter, memories: Sequence[NewMemory], bank: Path) -> Turn:
    """Train all of `memories` into a new bank at `bank`, which has the default model."""
    done: list[Trained] = []
    started = 0.0
    before = _flops(fitter)
    with tqdm(total=len(memories), desc="ours", unit=" memories", leave=False) as bar:

        def progress(_done: int, _total: int, last: Trained | None) -> None:
            nonlocal started
            if last is None:  # the embedder is loaded, the memories are stored
                started = time.perf_counter()
            else:
                done.append(last)
                bar.update()

        crew = partial(trained_by, fitter)
        train(bank, memories, settings=fitter.recipe, progress=progress, crew=crew).require_all()
    seconds, after = time.perf_counter() - started, _flops(fitter)
    return Turn(
        seconds,
        steps=statistics.mean(trained.steps for trained in done),
        recalled=sum(trained.recalled for trained in done),
        bytes=statistics.mean(trained.bytes for trained in done),
        flops=None if before is None or after is None else after - before,
    )


def _flops(fitter: LocalFitter) -> float | None:
    return getattr(fitter.trainer, "flops", None)


def measure(args: argparse.Namespace, console: Console) -> Result:
    """Let both take turns, and put the figures together."""
    with _at_most(args.minutes):
        return _measure(args, console)


def _measure(args: argparse.Namespace, console: Console) -> Result:
    memories = read_memories(args.data) if args.data else invent(args.count, args.seed)
    machine, path = this_machine(default_dtype()), resolve_model()
    gemm = products(path)
    console.print(f"matrix products: up to {max(p.gflops for p in gemm):.0f} GFLOP/s")
    started = time.perf_counter()
    fitter = LocalFitter(path, Recipe())
    load = time.perf_counter() - started
    with _folder(args.bank) as banks:
        our_turn(fitter, memories[:1], banks / "warm-up")  # as PEFT's first step: kernels are compiled
        turns, loops = [], list[PlainLoop]()
        for n in range(args.turns):
            turns.append(our_turn(fitter, memories, banks / f"turn-{n}"))
            console.print(f"ours, turn {n + 1}: {turns[-1].seconds / len(memories):.2f} s per memory")
            if not loops:
                loops = [plain_loop(path, dtype) for dtype in (None, torch.float32)]
                for loop in loops:
                    console.print(f"plain PEFT, {loop.dtype}: {loop.seconds:.2f} s per memory")
    few = msgspec.structs.replace(fitter.recipe, max_steps=PROFILED_STEPS)
    kinds, longest = account(lambda: list(LocalFitter(path, few).fit(memories)))
    base = weight_bytes(path)
    return Result(
        **msgspec.structs.asdict(figures(memories, turns, loops, gemm, base)),
        machine=machine,
        load_seconds=load,
        turns=turns,
        peft=loops,
        gemm=gemm,
        account=kinds,
        longest=longest,
    )


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="vllm-mega-bench-") as folder:
        yield Path(folder)


def table(result: Result) -> Table:
    """Both ways beside each other, and the account."""
    shown = Table("", "", title="training", title_justify="left", show_header=False)
    share = result.share_of_gemm_peak
    rows = {
        "ours, s per memory": f"{result.seconds_per_memory:.2f}",
        "plain PEFT, s per memory": ", ".join(f"{loop.seconds:.2f} ({loop.dtype})" for loop in result.peft),
        "faster by": f"{result.speedup:.1f}",
        "recalled word for word": f"{result.recalled:.1%}",
        "bytes per memory": f"{result.bytes_per_memory:,.0f} ({result.share_of_base:.2%} of the base model)",
        "fastest matrix product": f"{result.gemm_peak_gflops:.0f} GFLOP/s",
        "share of it": "not counted" if share is None else f"{share:.1%}",
        "time goes to": ", ".join(f"{kind} {percent:.0f} %" for kind, percent in result.account.items()),
    }
    for name, value in rows.items():
        shown.add_row(name, value)
    return shown


@contextmanager
def _at_most(minutes: float) -> Iterator[None]:
    def late(*_: object) -> None:
        raise MegaError(
            f"not done after {minutes:g} minutes; give it longer (--minutes) or less to do (--count)"
        )

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def options(add: Add) -> None:
    """What there is beside --output."""
    count = at_least(1)
    add("--count", type=count, default=24, help="how many memories are invented (default: 24)")
    add("--data", type=Path, help="memories to train instead, JSONL as for `vllm-mega train`")
    add("--seed", type=int, default=0, help="of the invented memories (default: 0)")
    add("--turns", type=count, default=2, help="how often ours trains all memories (default: 2)")
    add("--bank", type=Path, help="folder for the banks, one a turn; kept (default: a temporary one)")
    add("--minutes", type=positive, default=20, help="give up after so long (default: 20)")


PROGRAM = Program(
    "trainer", measure, table,
    "Measure seconds per memory, from texts to a committed bank, with the default settings. Beside it the "
    f"plain PEFT loop: rank {RANK} on all linear layers, {STEPS} steps of {ROWS} x {TOKENS} tokens, in the "
    "model's own type and in float32. Also: bytes of a memory, the share of the fastest matrix product that "
    "this machine does, and where the time goes.",
    "About 5 minutes on 2 cores.",
    options, output="bench-trainer.json",
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
