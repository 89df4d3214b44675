"""Short trainings of three memories on the tiny model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tests.banks import newest
from tests.training.tiny import BELL, KETTLE, LAMP, SETTINGS
from vllm_mega.bank.catalog.drafts import draft_of
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import TrainingError
from vllm_mega.training.recipe.job import Fit, Job
from vllm_mega.training.run.outcome import TrainReport
from vllm_mega.training.run.session import train
from vllm_mega.training.run.trainer import Trainer

ALL = (KETTLE, LAMP, BELL)
QUICK = msgspec.structs.replace(SETTINGS, max_steps=4, jobs=1)


class OneFails(Trainer):
    """A trainer whose rounds end when the lamp is among the jobs."""

    rounds = 0

    def fit(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Fit]]:
        type(self).rounds += 1
        if any(LAMP.text in example.answer for job in jobs for example in job.examples):
            raise TrainingError("the loss is not finite")
        return super().fit(jobs)


def run(bank: Path, tiny: Path, memories: tuple = ALL, settings: object = QUICK) -> TrainReport:
    return train(bank, memories, str(tiny), f"base:{tiny}", settings)  # type: ignore[arg-type]


def content(bank: Path, memory_id: str) -> NewMemory:
    """What the bank says of a memory, but for its links."""
    return draft_of(newest(bank, memory_id), train=True).memory
