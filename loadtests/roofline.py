"""The time of a step on paper: python -m loadtests.roofline --model llama-3.1-8b --gpu h100 --adapters 8

No GPU is asked, nothing is measured: what a step has to move and to compute, by what a data sheet says, for
the base model, for our kernels and for vLLM's own LoRA. A first run on a GPU can be judged by it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import NamedTuple

from loadtests.plain_table import markdown, plain, say
from loadtests.roofline_cost import LAUNCH, WIDTH, Cost, Launch, base, ours, stock, total
from loadtests.roofline_data import GPUS, LOADS, MODELS, Gpu, Linear, Load, Model

HEADINGS = (
    "load", "step", "launches", "MB", "MB again", "GFLOP", "GFLOP done", "floor, ms", "estimate, ms",
    "of base",
)  # fmt: skip
EPILOG = """\
columns:
  launches      kernels, which wait for each other
  MB            bytes that come from memory or go there, each once
  MB again      bytes beyond, which caches may give
  GFLOP         products and sums of the definition, x 10^9
  GFLOP done    the same with the rows and ranks that only fill tiles
  floor         each launch's MB or GFLOP at the figures of the data sheet: nothing is faster, but that the
                rows of a step may still lie in a cache
  estimate      3 us a launch; 80 % of the memory's speed, caches twice as fast as memory, half of the FLOP/s
  of base       estimate of base and adapters together, by that of the base

A run that needs much more than the estimate has a mistake; one near the floor cannot be made faster.
What GPUs tell each other (--tensor-parallel) is left out: adapters add none.
"""


class Case(NamedTuple):
    """What is asked."""

    model: Model
    gpu: Gpu
    adapters: int
    rank: int
    width: int
    targets: str
    gpus: int = 1
    context: int = 1024
    launch: float = LAUNCH


class Row(NamedTuple):
    """One load, one way."""

    load: str
    step: str
    cost: Cost
    of_base: float


def rows(case: Case) -> list[Row]:
    """Every load: the base model, ours, ours with one adapter a token, vLLM's own."""
    return [row for load in LOADS for row in _rows(case, load)]


def _rows(case: Case, load: Load) -> list[Row]:
    plain_step = total(base(case.model, load, case.context, case.gpus), case.gpu, case.launch)
    ways = {f"ours, K={width}": adapted(case, load, width=width) for width in dict.fromkeys((case.width, 1))}
    ways["vLLM's own, K=1"] = adapted(case, load, width=0)
    found = [Row(load.name, "base", plain_step, 1.0)]
    for name, step in ways.items():
        cost = total(step, case.gpu, case.launch)
        found.append(Row(load.name, name, cost, 1 + cost.estimate / plain_step.estimate))
    return found


def adapted(case: Case, load: Load, *, width: int) -> list[Launch]:
    """The launches that adapters add to a step; `width` 0: vLLM's own, one adapter a token."""
    layers, linears = targets(case)
    layer = []
    for one in linears:
        if width:
            layer += ours(one, load, case.adapters, case.rank, width)
        else:
            layer += stock(one, load, case.adapters, case.rank)
    return layers * layer


def targets(case: Case) -> tuple[int, tuple[Linear, ...]]:
    """How many layers have adapters, and on which linear layers."""
    layers, names = case.model.adapted(case.targets)
    return layers, tuple(one for one in case.model.linears(case.gpus) if one.name in names)


def adapter_bytes(case: Case) -> int:
    """Of one adapter, on one GPU."""
    layers, linears = targets(case)
    return WIDTH * layers * sum(one.adapter(case.rank) for one in linears)


def cells(row: Row) -> list[str]:
    """As the table has it."""
    cost = row.cost
    return [
        row.load, row.step, f"{cost.launches:,}", f"{cost.moved / 1e6:,.0f}", f"{cost.again / 1e6:,.0f}",
        f"{cost.needed / 1e9:,.1f}", f"{cost.done / 1e9:,.1f}", f"{1e3 * cost.floor:.3f}",
        f"{1e3 * cost.estimate:.3f}", f"{row.of_base:.2f}",
    ]  # fmt: skip


def title(args: argparse.Namespace, case: Case) -> str:
    """What the table is of."""
    layers, linears = targets(case)
    weights = WIDTH * (
        case.model.layers * sum(one.weights for one in case.model.linears(case.gpus))
        + 2 * case.model.hidden * case.model.vocabulary // case.gpus
    )
    names = ", ".join(one.name for one in linears)
    room = "" if weights < case.gpu.memory else f"; they do not fit {case.gpu.memory / 1e9:.0f} GB"
    return (
        f"{args.model} on {case.gpus} x {case.gpu.name} ({case.gpu.bandwidth / 1e9:,.0f} GB/s, "
        f"{case.gpu.flops / 1e12:,.0f} TFLOP/s: {case.gpu.source})\n"
        f"weights {weights / 1e9:.1f} GB a GPU{room}; mixtures of {case.width} of {case.adapters} adapters "
        f"of rank {case.rank}, {adapter_bytes(case) / 1e6:.1f} MB each, on {names} of {layers} layers; "
        f"decode behind {case.context} tokens"
    )


def parser() -> argparse.ArgumentParser:
    """The arguments of `python -m loadtests.roofline`."""
    made = argparse.ArgumentParser(
        prog="python -m loadtests.roofline",
        description="The time of a step on paper, for the base model, our kernels and vLLM's own LoRA.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--model", choices=MODELS, default="llama-3.1-8b")
    made.add_argument("--gpu", choices=GPUS, default="h100")
    made.add_argument("--adapters", type=_count, default=8, help="that a step chooses from (default: 8)")
    made.add_argument("--rank", type=_count, help="of the adapters (default: 16 for all, 4 for default)")
    made.add_argument("--width", type=_count, default=4, help="adapters of a token, K (default: 4)")
    where = (
        "adapters on all linear layers, or as training makes them: the MLP of the upper third (default: all)"
    )
    made.add_argument("--targets", choices=("all", "default"), default="all", help=where)
    made.add_argument(
        "--tensor-parallel", type=_count, default=1, help="GPUs that share the model (default: 1)"
    )
    made.add_argument("--context", type=_count, default=1024, help="tokens behind which a request decodes")
    made.add_argument("--launch-us", type=float, default=1e6 * LAUNCH, help="of an empty launch (default: 3)")
    form = made.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON: bytes, FLOP and seconds")
    form.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return made


def _count(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {word}")
    return number


def case_of(args: argparse.Namespace) -> Case:
    """From the command line."""
    rank = args.rank or (16 if args.targets == "all" else 4)
    width = min(args.width, args.adapters)
    return Case(
        MODELS[args.model], GPUS[args.gpu], args.adapters, rank, width, args.targets, args.tensor_parallel,
        args.context, args.launch_us / 1e6,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; the exit code."""
    args = parser().parse_args(argv)
    case = case_of(args)
    try:
        found = rows(case)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if args.json:
        say(json.dumps([{**row._asdict(), "cost": row.cost._asdict()} for row in found], indent=1))
        return 0
    say(title(args, case) + "\n")
    say((markdown if args.markdown else plain)(HEADINGS, [cells(row) for row in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
