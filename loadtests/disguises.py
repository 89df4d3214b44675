"""Training must follow the model, not its numbers: python -m loadtests.disguises --output out/disguises.json

The default model in disguises that compute the same (see `disguised`), or any other model, is trained with no
option on the invented memories, and asked through transformers, each memory alone with weight 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from loadtests.disguised import Disguise, deeper, norms_times, padded, save_disguised, untied, wider
from loadtests.program import Add, Program
from vllm_mega.demo.material import EXAMPLES
from vllm_mega.evaluation.data import Item, add_questions, read_items
from vllm_mega.evaluation.scoring import score
from vllm_mega.models import resolve_model
from vllm_mega.prompts import question_prompt, user
from vllm_mega.training.compute.truth import adapted
from vllm_mega.training.recipe.job import Fit, memory_job
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.run.trainer import Trainer

DISGUISES: dict[str, tuple[Disguise, ...]] = {
    "none": (),
    "norms / 8": (norms_times(1 / 8),),
    "norms x 8": (norms_times(8.0),),
    "norms per channel": (norms_times(None),),
    "width doubled": (wider,),
    "depth doubled": (deeper,),
    "vocabulary of 262,144": (padded(262_144),),
    "head untied": (untied,),
}
ANSWER_TOKENS = 48


class Line(msgspec.Struct, frozen=True):
    """What one disguise gave."""

    disguise: str
    memories: int
    exact: int
    """Recalled word for word."""
    questions: int
    direct: int
    """Answered right, in one sentence."""
    steps: float
    """Mean over the memories."""
    seconds: float
    """Of a memory."""


def measure(args: argparse.Namespace, console: Console) -> list[Line]:
    """Train and ask every disguise in turn."""
    items = read_items(EXAMPLES / "memories.jsonl", args.limit)
    items = add_questions(items, EXAMPLES / "questions.jsonl")
    lines = []
    for name in tqdm(args.only or list(DISGUISES), unit=" disguises"):
        with tempfile.TemporaryDirectory(prefix="vllm-mega-disguise-") as folder:
            path = save_disguised(resolve_model(), Path(folder), *DISGUISES[name])
            lines.append(_line(name, path, items))
        console.print(lines[-1])
    return lines


def _line(name: str, path: Path, items: Sequence[Item]) -> Line:
    trainer = Trainer(path, Recipe())
    started = time.perf_counter()
    fits = dict(trainer.fit([memory_job(item.memory, trainer.recipe) for item in items]))
    seconds = (time.perf_counter() - started) / len(items)
    questions = [(fits[n], qa) for n, item in enumerate(items) for qa in item.qa]
    right = sum(
        score(_answer(trainer, fit, qa.question), (qa.answer, *qa.aliases)).strict for fit, qa in questions
    )
    return Line(
        name,
        len(items),
        sum(fit.recalled for fit in fits.values()),
        len(questions),
        right,
        sum(fit.steps for fit in fits.values()) / len(items),
        seconds,
    )


def _answer(trainer: Trainer, fit: Fit, question: str) -> str:
    model: Any = trainer.untouched
    prompt, start = trainer.chat.asked(user(question_prompt(question)))
    ids = torch.tensor([prompt])
    dtype: torch.dtype = getattr(torch, trainer.recipe.dtype)
    scaling = trainer.recipe.scaling
    with torch.inference_mode(), adapted(model, [fit.tensors], [start], scaling=scaling, dtype=dtype):
        out = model.generate(
            input_ids=ids, max_new_tokens=ANSWER_TOKENS, do_sample=False, use_cache=False,
            pad_token_id=trainer.chat.end_id,
        )  # fmt: skip
    text: str = trainer.chat.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return text


def table(lines: Sequence[Line]) -> Table:
    """A row a disguise."""
    shown = Table(
        "disguise", "exact", "direct", "steps", "s a memory", title="the same function, other numbers"
    )
    for line in lines:
        shown.add_row(
            line.disguise,
            f"{line.exact} of {line.memories}",
            f"{line.direct} of {line.questions}",
            f"{line.steps:.1f}",
            f"{line.seconds:.1f}",
        )
    return shown


def options(add: Add) -> None:
    """What there is beside --output."""
    add("--limit", type=int, default=12, help="how many of the 12 memories (default: all)")
    add("--only", nargs="+", choices=DISGUISES, help="some of the disguises (default: all)")


PROGRAM = Program(
    "disguises", measure, table,
    "Train the default model and disguises of it that compute the same, and ask each.",
    "About 15 minutes on 2 cores.",
    options,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
