"""What every load test does around measuring: the command line, the file, the table, the exit code."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from rich.console import Console
from rich.table import Table

from loadtests.machine import default_dtype
from vllm_mega.errors import MegaError
from vllm_mega.output import write_json

R = TypeVar("R")
Add = Callable[..., object]
"""`add_argument` of a parser."""


@dataclass(frozen=True)
class Program(Generic[R]):
    """A load test: python -m loadtests.NAME --output FILE."""

    name: str
    """Of its module."""
    measure: Callable[[argparse.Namespace, Console], R]
    """From the command line to the result, which is written as JSON."""
    table: Callable[[R], Table]
    description: str
    epilog: str | None = None
    options: Callable[[Add], None] = lambda _: None
    """Adds what there is beside --output."""
    good: Callable[[R], bool] = lambda _: True
    """Or else the exit code is 1."""
    output: str = ""
    """An example, within the folder `out`; empty: NAME.json."""
    formatter: type[argparse.HelpFormatter] = argparse.HelpFormatter

    def arguments(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """The command line; leaves through SystemExit for --help and mistakes."""
        parser = argparse.ArgumentParser(
            prog=f"python -m loadtests.{self.name}",
            description=self.description,
            epilog=self.epilog,
            formatter_class=self.formatter,
        )
        example = f"the JSON file to write (out/{self.output or self.name + '.json'})"
        parser.add_argument("--output", type=Path, required=True, help=example)
        self.options(parser.add_argument)
        return parser.parse_args(argv)

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Measure, write the result, whole, and show it; the exit code, 1 if it is not `good`."""
        args, console = self.arguments(argv), Console()
        # kill(1) becomes an exception, so that what was started is ended then too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            result = self._written(args, console)
        except MegaError as error:
            Console(stderr=True, highlight=False).print(f"error: {error}", markup=False, soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        console.print(self.table(result))
        console.print(f"written: {args.output}")
        return 0 if self.good(result) else 1

    def _written(self, args: argparse.Namespace, console: Console) -> R:
        try:
            args.output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MegaError(f"--output {args.output}: {error}") from error
        result = self.measure(args, console)
        write_json(args.output, result)
        return result


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a number of things."""

    def count(word: str) -> int:
        number = int(word)
        if number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {word}")
        return number

    return count


def positive(word: str) -> float:
    """The type of an option that is a time or a rate."""
    number = float(word)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {word}")
    return number


def add_dtype(add: Add, what: str = "the type to compute in (default here: %(default)s)") -> None:
    """The option --dtype; `what` it is, for --help."""
    add("--dtype", default=default_dtype(), help=what)


def fresh_log(args: argparse.Namespace, name: str = "log") -> Path:
    """An empty file beside the output, for what others say."""
    log: Path = args.output.with_suffix(f".{name}")
    log.write_bytes(b"")
    return log
