"""The benchmark of the engine: python -m loadtests.engine --output out/bench-engine.json

Mixtures against the base model and against vLLM's own LoRA with one adapter. Every kind of engine is a
process of its own; all of them take turns, several times over, so that a ratio compares neighbours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
from rich.console import Console
from rich.table import Table

from loadtests.bank import default_settings, write_adapter
from loadtests.engine_child import Figure, Job, Measurement
from loadtests.line_process import LineProcess
from loadtests.machine import Machine, this_machine
from loadtests.program import Add, Program, add_dtype, at_least, fresh_log
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.http.launch import this_environment
from vllm_mega.models import DEFAULT_MODEL, linear_shapes, resolve_model
from vllm_mega.training.recipe.settings import TrainSettings

LOADS = ("decode1", "decode16", "decode64", "prefill", "mixed")
WIDTHS = (1, 4, 8)
ADAPTERS = 8
OF_MEMORY = 0.85
"""Part of a GPU's memory that all engines together take."""
SHAPES = {
    "default": TrainSettings(),
    "all-linear-r16": TrainSettings(
        rank=16,
        layers=1000,
        modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    ),
}


class Case(msgspec.Struct):
    """One row of the result: a kind of engine, a load, and the median over all rounds."""

    engine: str
    adapters: str
    k: int
    load: str
    compiled: bool
    tokens_per_s: float
    ratio_to_base: float
    ratio_to_stock_one_adapter: float | None
    """None: not measured."""
    peak_mib: float


class Result(msgspec.Struct):
    """What the output file says."""

    machine: Machine
    rounds: int
    cases: list[Case]


A = TypeVar("A", bound=msgspec.Struct)
Key = tuple[str, str, int, str, bool]
"""Engine, shape of adapters, K, load, compiled."""
Pair = tuple[Figure, Figure]
"""A figure, and that of the base model measured just before."""


class Child(LineProcess):
    """An engine in its own process, that of `module`."""

    def __init__(self, job: Job, log: Path, module: str = "loadtests.engine_child") -> None:
        self.job = job
        env = os.environ | this_environment()
        env |= {"VLLM_PLUGINS": "vllm_mega" if job.kind == "mega" else "", "VLLM_LOGGING_LEVEL": "ERROR"}
        env |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        super().__init__(f"the engine {job.kind!r}", [sys.executable, "-m", module], log, env)
        self.line(msgspec.json.encode(job))

    def measure(self, what: Measurement) -> Figure:
        """Let it measure, and wait."""
        return self.ask(what, Figure)

    def ask(self, what: msgspec.Struct, answer: type[A]) -> A:
        """Let it do `what`, and wait for the answer."""
        return msgspec.json.decode(self.line(msgspec.json.encode(what)), type=answer)


@contextmanager
def adapters(names: Sequence[str], count: int = ADAPTERS) -> Iterator[dict[str, list[tuple[str, str]]]]:
    """`count` random adapters of every shape: (content hash, folder)."""
    shapes = linear_shapes(resolve_model())
    with tempfile.TemporaryDirectory(prefix="vllm-mega-bench-") as root:
        made: dict[str, list[tuple[str, str]]] = {}
        for name in names:
            made[name] = []
            for n in range(count):
                folder = Path(root, name, str(n))
                folder.mkdir(parents=True)
                write_adapter(folder, shapes, default_settings(SHAPES[name]), n)
                made[name].append((adapter_digest(folder), str(folder)))
        yield made


def jobs(args: argparse.Namespace, made: dict[str, list[tuple[str, str]]]) -> list[tuple[str, Job]]:
    """The engines to start, with the name of their adapters' shape."""
    model, engines = str(resolve_model(DEFAULT_MODEL)), []
    gpu = torch.cuda.is_available()
    for compiled in {"both": (False, True), "only": (True,), None: (False,)}[args.compiled]:
        engines.append(("none", Job("base", model, args.dtype, compiled, 0, [], [])))
        for name, folders in made.items():
            shape = default_settings(SHAPES[name])
            rest = (model, args.dtype, compiled, shape.rank, list(shape.modules or ()), folders)
            if not args.no_stock and (gpu or not compiled):  # vLLM's own cannot be compiled on CPUs
                engines.append((name, Job("stock", *rest)))
            engines.append((name, Job("mega", *rest)))
    share = OF_MEMORY / len(engines) if gpu else None
    return [(name, msgspec.structs.replace(job, share=share)) for name, job in engines]


def measure(args: argparse.Namespace, console: Console) -> Result:
    """Start all engines, let them take turns, and put the figures together."""
    machine, log = this_machine(args.dtype), fresh_log(args)
    pairs: dict[Key, list[Pair]] = {}
    with adapters(args.adapters) as made, ExitStack() as stack:
        children = []
        for name, job in jobs(args, made):
            console.print(f"starting {job.kind}, adapters {name}, {'compiled' if job.compiled else 'eager'}")
            children.append((name, Child(job, log)))
            stack.callback(children[-1][1].close)
        for turn in range(-1, args.rounds):  # the first turn warms up
            for load in args.loads if turn >= 0 else ("decode1", "mixed"):
                start = time.monotonic()
                for name, child in children:
                    if child.job.kind == "base":
                        base = child
                        continue
                    for k in (1,) if child.job.kind == "stock" else args.widths:
                        beside = base.measure(Measurement(load, 0, turn))
                        figure = child.measure(Measurement(load, k, turn))
                        if turn >= 0:
                            key = (child.job.kind, name, k, load, child.job.compiled)
                            pairs.setdefault(key, []).append((figure, beside))
                word = f"round {turn + 1} of {args.rounds}" if turn >= 0 else "warming up"
                console.print(f"{word}: {load}, {time.monotonic() - start:.0f} s")
    return Result(machine, args.rounds, cases(pairs))


def cases(pairs: dict[Key, list[Pair]]) -> list[Case]:
    """Medians and ratios.

    A ratio is taken against the base model measured just before, then the median of these: load that
    comes and goes on a shared machine meets both alike. On CPUs vLLM's own LoRA is measured eagerly only.
    """
    bases: dict[tuple[str, bool], list[Figure]] = {}
    for (_, _, _, load, compiled), measured in pairs.items():
        bases.setdefault((load, compiled), []).extend(base for _, base in measured)
    summed = [
        Case("base", "none", 0, load, compiled, _median(figures), 1.0, None, _peak(figures))
        for (load, compiled), figures in bases.items()
    ]
    for (engine, shape, k, load, compiled), measured in pairs.items():
        mine = [figure for figure, _ in measured]
        stock = pairs.get(("stock", shape, 1, load, compiled))
        ratio = _ratio(measured)
        to_stock = None
        if stock is not None:
            to_stock = round(ratio / _ratio(stock), 3)
        summed.append(
            Case(engine, shape, k, load, compiled, _median(mine), round(ratio, 3), to_stock, _peak(mine))
        )
    return summed


def _median(figures: Sequence[Figure]) -> float:
    return round(statistics.median(figure.tokens_per_s for figure in figures), 2)


def _peak(figures: Sequence[Figure]) -> float:
    return round(max(figure.peak_mib for figure in figures), 1)


def _ratio(measured: Sequence[Pair]) -> float:
    return statistics.median(figure.tokens_per_s / base.tokens_per_s for figure, base in measured)


def table(result: Result) -> Table:
    """Ratios to the base model by load, one row per engine."""
    loads = list(dict.fromkeys(case.load for case in result.cases))
    rows: dict[tuple[Any, ...], dict[str, Case]] = {}
    for case in result.cases:
        rows.setdefault((case.compiled, case.adapters, case.engine, case.k), {})[case.load] = case
    shown = Table("adapters", "engine", "K", *loads, "peak MiB", title="tokens/s (ratio to the base model)")
    for (compiled, adapters_, engine, k), by_load in rows.items():
        cells = []
        for load in loads:
            case = by_load[load]
            cells.append(f"{case.tokens_per_s:.0f} ({case.ratio_to_base:.2f})")
        peak = max(case.peak_mib for case in by_load.values())
        shown.add_row(adapters_, engine + (", compiled" if compiled else ""), str(k), *cells, f"{peak:.0f}")
    return shown


def options(add: Add) -> None:
    """What there is beside --output."""
    widths, rounds = range(ADAPTERS + 1), "turns of every measurement; figures are medians (default: 3)"
    add("--rounds", type=at_least(1), default=3, help=rounds)
    add("--loads", nargs="+", default=LOADS, choices=LOADS, metavar="LOAD", help=f"of {', '.join(LOADS)}")
    add("--adapters", nargs="+", default=list(SHAPES), choices=SHAPES, help="shapes of adapters")
    add("--widths", nargs="+", type=int, default=WIDTHS, choices=widths, help="mixture widths", metavar="K")
    add_dtype(add)
    which = "compiled engines too, beside the eager ones, or `only` compiled ones"
    add("--compiled", nargs="?", const="both", choices=("both", "only"), help=which)
    add("--no-stock", action="store_true", help="leave vLLM's own LoRA out: it takes most of the time")


PROGRAM = Program(
    "engine", measure, table,
    "Measure decode, prefill and mixed traffic: vLLM without LoRA, vLLM's own LoRA with one adapter, and "
    "mixtures of 0, 1, 4 and 8 adapters, every request another mixture.",
    "About 15 minutes on 2 cores; --compiled adds the time that vLLM takes to compile.",
    options, output="bench-engine.json",
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
