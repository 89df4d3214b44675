"""Every architecture, trained and served: python -m loadtests.architectures --output out/architectures.json

Small random models, in float32: the trainer and vLLM are compared with PEFT. The same checks are tests
(`tests/architectures`); here all of them end in one file, and the table of docs/models.md is written.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests.machine import Machine, this_machine
from loadtests.program import Add, Program
from tests.architectures.checks import Outcome, TrainedFamily, serve_families, train_family, try_refusal
from tests.architectures.families import FAMILIES, REFUSALS, Family
from vllm_mega.errors import MegaError

BEGIN, END = "<!-- architectures: begin -->", "<!-- architectures: end -->"
"""Between these lines of docs/models.md stands what `render` gives."""
SECONDS_EACH = 60.0
"""That a family may take to be served; it takes about 5."""


class Result(msgspec.Struct):
    """What the output file says."""

    machine: Machine
    outcomes: list[Outcome]

    @property
    def good(self) -> bool:
        """Whether all is as expected."""
        return all(outcome.status == outcome.expected for outcome in self.outcomes)


def render() -> str:
    """The table of architectures, in Markdown, from the declarations that the tests check."""
    lines = ["| architecture | `model_type` | adapters by default on | | remarks |", "|---|---|---|---|---|"]
    for family in FAMILIES:
        modules = ", ".join(f"`{name}`" for name in family.modules)
        cells = (family.name, f"`{family.model_type}`", modules, family.expected, family.note)
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| {case.name} |  |  | refused | {case.why} |" for case in REFUSALS]
    return "\n".join(lines)


def with_table(text: str) -> str:
    """The text of docs/models.md, with the table as it is now.

    Raises:
        ValueError: the two marks are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected the lines {BEGIN!r} and {END!r}, found no such pair")
    return f"{before}{BEGIN}\n{render()}\n{END}{after}"


def measure(args: argparse.Namespace, console: Console) -> Result:
    """Train all, serve what could be trained, try what should be refused."""
    outcomes: list[Outcome] = []
    trained: list[tuple[Family, TrainedFamily]] = []
    with tempfile.TemporaryDirectory(prefix="vllm-mega-architectures-") as folder:
        for family, files in _train(args.only, Path(folder)):
            if isinstance(files, Outcome):
                outcomes.append(files)
            else:
                trained.append((family, files))
            console.print(f"trained: {family.name}")
        if trained:
            families, adapters = zip(*trained, strict=True)
            console.print(f"serving {len(trained)}")
            outcomes += serve_families(families, adapters, Path(folder), 60 + SECONDS_EACH * len(trained))
        for case in REFUSALS:
            if case.name in args.only:
                outcomes.append(try_refusal(case, Path(folder) / case.name))
    if args.docs:
        args.docs.write_text(with_table(args.docs.read_text(encoding="utf-8")), encoding="utf-8")
    return Result(this_machine("float32"), outcomes)


def _train(names: Sequence[str], root: Path) -> Iterator[tuple[Family, TrainedFamily | Outcome]]:
    for family in FAMILIES:
        if family.name not in names:
            continue
        try:
            yield family, train_family(family, root)
        except MegaError as error:
            yield family, Outcome(family.name, family.expected, f"wrong: refused: {error}")


def table(result: Result) -> Table:
    """A line per architecture."""
    shown = Table("architecture", "expected", "found", "trainer", "vLLM", "s", title="against PEFT, float32")
    for outcome in result.outcomes:
        errors = ["" if e is None else f"{e:.0e}" for e in (outcome.trained_error, outcome.served_error)]
        seconds = outcome.train_seconds + outcome.serve_seconds
        shown.add_row(outcome.name, outcome.expected, outcome.status, *errors, f"{seconds:.1f}")
    return shown


def options(add: Add) -> None:
    """What there is beside --output."""
    names = [case.name for case in (*FAMILIES, *REFUSALS)]
    add("--only", nargs="+", default=names, choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    add("--docs", type=Path, help="write the table of architectures into this file (docs/models.md)")


PROGRAM = Program(
    "architectures", measure, table,
    "Train and serve a small random model of every architecture; compare with PEFT.",
    "About 5 minutes on 2 cores. Ends with 1 if anything is not as expected.",
    options, good=lambda result: result.good,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
