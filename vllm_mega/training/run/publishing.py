"""Trained tensors become adapters of the bank: exported, checked, placed, and named in one change."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_mega.bank import files
from vllm_mega.bank.adapter import check_adapter
from vllm_mega.bank.catalog import records
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.jobs import fail, publish_all
from vllm_mega.bank.catalog.records import Job
from vllm_mega.bank.catalog.store import place
from vllm_mega.errors import AdapterError, LeaseLostError, TrainingError
from vllm_mega.training.recipe.job import Fit
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.targets import layer_index
from vllm_mega.training.run.export import export
from vllm_mega.training.run.outcome import Failed, Trained

Done = tuple[Job, Fit | TrainingError]
"""A job, and what training gave."""


@dataclass(frozen=True)
class Publisher:
    """All that it takes to make adapters of trained tensors."""

    catalog: Catalog
    recipe: Recipe
    base: str
    """Name of the base model, for the adapters' own configs."""
    shapes: Mapping[str, tuple[int, int]]
    """(O, I) by linear module of the base model."""
    owner: str

    def publish(self, done: Sequence[Done]) -> list[Trained | Failed]:
        """What became of each, in order; nothing of those whose memory was changed or forgotten meanwhile.

        The good ones come in one change. A training that failed, or gave a bad adapter, costs no other.

        Raises:
            BankError: disk or database refuse.
        """
        made = [(job, fit, self._made(fit)) for job, fit in done]
        good = [(job, outcome) for job, _, outcome in made if isinstance(outcome, records.Trained)]
        told = publish_all(self.catalog, good, self.owner)
        lost = {
            job.name
            for (job, _), outcome in zip(good, told, strict=True)
            if isinstance(outcome, LeaseLostError)
        }
        outcomes = [self._outcome(*each) for each in made if each[0].name not in lost]
        return [outcome for outcome in outcomes if outcome is not None]

    def _made(self, fit: Fit | TrainingError) -> records.Trained | Exception:
        """The adapter, placed, or why there is none."""
        if isinstance(fit, TrainingError):
            return fit
        try:
            return self._place(fit)
        except AdapterError as error:
            return error

    def _place(self, fit: Fit) -> records.Trained:
        layers = sorted({layer_index(name) for name in fit.tensors})
        with files.disk_errors(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as folder:
            export(Path(folder), fit.tensors, self.base, self.recipe, layers)
            facts = check_adapter(Path(folder), self.shapes)
            record = training_record(self.recipe, fit)
            return place(self.catalog, Path(folder), facts, recipe=self.recipe.digest, training=record)

    def _outcome(
        self, job: Job, fit: Fit | TrainingError, made: records.Trained | Exception
    ) -> Trained | Failed | None:
        if isinstance(made, records.Trained) and isinstance(fit, Fit):
            return Trained(job.namespace, job.id, fit.steps, fit.loss, fit.recalled, fit.ending, fit.seconds,
                           made.bytes)  # fmt: skip
        try:
            fail(self.catalog, job, str(made))
        except LeaseLostError:
            return None
        return Failed(job.namespace, job.id, str(made))


def training_record(recipe: Recipe, fit: Fit) -> dict[str, Any]:
    """What the bank notes about a training."""
    return {
        "rank": recipe.rank,
        "seed": recipe.seed,
        "steps": fit.steps,
        "loss": round(fit.loss, 4),
        "recalled": fit.recalled,
        "ending": fit.ending,
        "seconds": round(fit.seconds, 2),
    }
