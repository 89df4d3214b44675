"""The trainer's word against the engine's: python -m loadtests.recitals --output OUT --bank BANK

Every memory of a file is trained with no option, then vLLM is asked for each by the memory prompt, greedily,
with that memory alone; and every question about them as a client would, through the gate.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from loadtests.program import Add, Program
from vllm_mega.bank.library import Library
from vllm_mega.config import DEFAULT_NAMESPACE
from vllm_mega.demo.material import EXAMPLES
from vllm_mega.evaluation.data import Item, add_questions, read_items
from vllm_mega.evaluation.scoring import is_exact, score
from vllm_mega.prompts import question_prompt
from vllm_mega.training.run.outcome import Trained, TrainReport
from vllm_mega.training.run.session import train


class Result(msgspec.Struct, frozen=True):
    """What the output file says."""

    model: str
    memories: int
    recalled: int
    """By the trainer's word."""
    recited: int
    """Word for word, by vLLM."""
    agree: int
    """Memories of which both say the same."""
    disagreements: list[str]
    """Ids of the others."""
    questions: int
    direct: int
    """Answered right, in one sentence."""
    contained: int
    """Answered right, in any number of sentences."""
    seconds: float | None
    """Of a memory's training; None: the bank had them all."""


def measure(args: argparse.Namespace, console: Console) -> Result:
    """Train what the bank lacks, let vLLM recite every memory, and ask every question."""
    from vllm_mega.offline import DEFAULT_SAMPLING, MegaLLM

    items = read_items(args.data, args.limit)
    items = add_questions(items, args.questions) if args.questions else items
    report = _train(args, items)
    count = len(report.trained)
    console.print(f"trained {count} memories in {report.seconds:.0f} s")
    greedy = DEFAULT_SAMPLING.clone()
    greedy.max_tokens = 512
    asked = [(item, qa) for item in items for qa in item.qa]
    with MegaLLM(args.bank, args.model, max_model_len=2048) as llm:
        alone = [{"mode": "recall", "memories": [{"id": item.id, "weight": 1.0}]} for item in items]
        recitals = llm.chat([item.text for item in items], greedy, mega=alone, use_tqdm=True)
        answers = llm.chat([question_prompt(qa.question) for _, qa in asked], use_tqdm=True) if asked else []
    scores = [score(a.text, (qa.answer, *qa.aliases)) for a, (_, qa) in zip(answers, asked, strict=True)]
    recited = {
        item.id: is_exact(answer.text, item.text) for item, answer in zip(items, recitals, strict=True)
    }
    with Library(args.bank) as library:
        rows = [library.get(DEFAULT_NAMESPACE, item.id) for item in items]
        told = {row.id: bool(library.version(row).training["recalled"]) for row in rows}
    return Result(
        model=library.settings.base.name,
        memories=len(items),
        recalled=sum(told[item.id] for item in items),
        recited=sum(recited.values()),
        agree=sum(recited[item.id] == told[item.id] for item in items),
        disagreements=[item.id for item in items if recited[item.id] != told[item.id]],
        questions=len(asked),
        direct=sum(verdict.strict for verdict in scores),
        contained=sum(verdict.lenient for verdict in scores),
        seconds=round(report.seconds / count, 2) if count else None,
    )


def _train(args: argparse.Namespace, items: Sequence[Item]) -> TrainReport:
    """Train what the bank lacks.

    Raises:
        TrainingError: a memory could not be trained.
    """
    with tqdm(unit=" memories", desc="training") as bar:

        def progress(done: int, total: int, _last: Trained | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = train(args.bank, [item.memory for item in items], args.model, progress=progress)
    report.require_all()
    return report


def table(result: Result) -> Table:
    """The trainer's word, the engine's, and the answers."""
    shown = Table("", "", title=result.model, title_justify="left", show_header=False)
    of = f"of {result.memories}"
    shown.add_row("recalled, says the trainer", f"{result.recalled} {of}")
    shown.add_row("recited word for word by vLLM", f"{result.recited} {of}")
    shown.add_row("both say the same", f"{result.agree} {of} {' '.join(result.disagreements)}")
    shown.add_row("questions right, in one sentence", f"{result.direct} of {result.questions}")
    shown.add_row("questions right", f"{result.contained} of {result.questions}")
    shown.add_row("seconds a memory", "trained before" if result.seconds is None else f"{result.seconds:.1f}")
    return shown


def options(add: Add) -> None:
    """What there is beside --output."""
    add("--bank", type=Path, required=True, help="folder of the bank; what it has is not trained again")
    add("--model", help="base model (default: the bank's, or else the default)")
    add("--data", type=Path, default=EXAMPLES / "memories.jsonl", help="as for `vllm-mega eval`")
    add("--questions", type=Path, help="more questions, as for `vllm-mega eval`")
    add("--limit", type=int, help="only the first LIMIT memories")


PROGRAM = Program(
    "recitals", measure, table,
    "Train memories with no option, and compare what vLLM recites with the trainer's word.",
    "A minute to start and ask, beside 4 to 10 seconds of training for each memory.",
    options,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
