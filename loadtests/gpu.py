"""All that a GPU can say: python -m loadtests.gpu [--quick] [--parts kernels stock engine trainer]

Writes out/bench-gpu.json, a verdict a line. The parts `kernels` and `stock` need torch, Triton and NumPy
alone. docs/gpu.md says how to read it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from loadtests import gpu_apart, gpu_check, gpu_times
from loadtests.gpu_options import Options
from loadtests.gpu_report import COULD_NOT, Line, Report, as_markdown, machine, read, table
from loadtests.gpu_time import Clock
from loadtests.plain_table import say

PARTS: dict[str, Callable[[Options], Iterator[Line]]] = {
    "kernels": gpu_check.run,
    "stock": gpu_times.run,
    "engine": gpu_apart.engine,
    "trainer": gpu_apart.trainer,
}
SECONDS, QUICK_SECONDS = 50.0, 22.0
EPILOG = """\
parts:
  kernels   our kernels against the definition (vllm_mega/kernels/reference.py), at shapes of real models
  stock     the time of our kernels: beside vLLM's own, beside the base model's products, beside the floor of
            python -m loadtests.roofline
  engine    python -m loadtests.engine: base, vLLM's own LoRA with one adapter, mixtures of 1, 4 and 8
  trainer   python -m loadtests.whole: random models of 1B and 8B

verdicts: pass; slow (right, but not as fast as it should be); fail; could not run; left out (no time).
The exit code is 1 where a line says fail or could not run, and where there is no GPU.
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of `python -m loadtests.gpu`."""
    made = argparse.ArgumentParser(
        prog="python -m loadtests.gpu",
        description="Check and time all that runs on a GPU, on this machine's first one.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add(
        "--output", type=Path, default=Path("out/bench-gpu.json"), help="the JSON file (default: %(default)s)"
    )
    add("--quick", action="store_true", help="fewer shapes, loads and models")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)")
    add(
        "--vllm-source",
        type=Path,
        metavar="DIR",
        help="folder with vLLM's package, to read its LoRA kernels from",
    )
    limit = (
        f"of kernels, and of stock; then they begin nothing (default: {SECONDS:g}, quick {QUICK_SECONDS:g})"
    )
    add("--seconds", type=float, help=limit)
    add("--markdown", type=Path, metavar="JSON", help="measure nothing: show such a file as Markdown")
    return made


def measure(args: argparse.Namespace) -> Report:
    """All parts, in turn; the file is written after every line: an interrupted run leaves what it has."""
    seconds = args.seconds or (QUICK_SECONDS if args.quick else SECONDS)
    report = Report(machine())
    for part in args.parts:
        options, began = Options(args.output, args.quick, args.vllm_source, Clock(seconds)), time.monotonic()
        for line in _lines(part, options):
            report.lines.append(line)
            report.seconds[part] = round(time.monotonic() - began, 1)
            report.write(args.output)
    return report


def _lines(part: str, options: Options) -> Iterator[Line]:
    try:
        yield from PARTS[part](options)
    except Exception as error:  # the other parts are still of interest
        yield Line(part, "all that follows", COULD_NOT, f"{type(error).__name__}: {error}"[:300])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, show; the exit code."""
    args = parser().parse_args(argv)
    try:
        if args.markdown:
            say(as_markdown(read(args.markdown)))
            return 0
        if not torch.cuda.is_available():
            sys.stderr.write("error: torch sees no GPU here; on paper: python -m loadtests.roofline\n")
            return 1
        report = measure(args)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    say(table(report.lines))
    say(f"seconds: {', '.join(f'{part} {taken:g}' for part, taken in report.seconds.items())}")
    say(f"written: {args.output}")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
