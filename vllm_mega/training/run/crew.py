"""Who trains what a run has stored: this process, or workers that Ray starts (`ray_crew`)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import msgspec

from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import ModelError, TrainingError
from vllm_mega.isolation import isolated
from vllm_mega.models import linear_shapes
from vllm_mega.models.checkpoint import context_length
from vllm_mega.training.recipe.encoding import longest, too_long
from vllm_mega.training.recipe.job import Fit, Job, memory_job
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.run.leases import owner
from vllm_mega.training.run.outcome import Failed, Trained
from vllm_mega.training.run.publishing import Publisher
from vllm_mega.training.run.round import EachStep, unwatched
from vllm_mega.training.run.trainer import Trainer
from vllm_mega.training.run.work import Fitted, Worker


class Task(msgspec.Struct, frozen=True):
    """All that a worker needs to know, wherever it is."""

    bank: Path
    """Absolute; every host has the folder there, and the base model at ..."""
    path: Path
    """... this path."""
    base: str
    """Name of the base model."""
    recipe: Recipe
    catalog: str | None = None
    """URL of the catalog; None: it is in the folder."""
    trust_remote_code: bool = False
    """Whether to run code that the checkpoint brings."""


Outcomes = Generator[list[Trained | Failed], None, None]
Crew = Callable[[Task, Sequence[MemoryName]], Outcomes]
"""Trains memories that wait in the catalog, lot after lot; closing the generator ends the training."""


def here(task: Task, names: Sequence[MemoryName]) -> Outcomes:
    """Train in this process.

    Raises:
        BankError: disk or database refuse.
        ModelError: the model does not have the layers that the recipe asks for.
    """
    yield from trained_by(LocalFitter(task.path, task.recipe, task.trust_remote_code), task, names)


def trained_by(fitter: LocalFitter, task: Task, names: Sequence[MemoryName]) -> Outcomes:
    """As `here`, by a model that is loaded already."""
    with open_catalog(task.bank, task.catalog) as catalog:
        publisher = Publisher(catalog, task.recipe, task.base, linear_shapes(task.path), owner())
        yield from Worker(publisher, fitter.fit, task.recipe.jobs, lambda: fitter.steps).run(names)


class LocalFitter:
    """Trains in this process."""

    def __init__(
        self, path: Path, recipe: Recipe, trust_remote_code: bool = False, each_step: EachStep = unwatched
    ) -> None:
        """Load the checkpoint; `each_step` is called before every step of training, and may end it.

        Raises:
            ModelError: it does not have the layers that the recipe asks for.
        """
        self.recipe = recipe
        self.trainer = Trainer(path, recipe, trust_remote_code=trust_remote_code)
        self.trainer.each_step = self._step
        self.steps = 0
        """Of those that are trained now, or were last."""
        self._each_step = each_step
        self._context = context_length(path)

    def fit(self, memories: Sequence[NewMemory]) -> Fitted:
        """Train side by side: of each memory, in order, its adapter, or the reason why there is none.

        A memory that cannot be trained costs the others nothing. One whose training fails costs them time:
        they are trained again without it.
        """
        problems = [self._problem(memory) for memory in memories]
        good = zip(memories, problems, strict=True)
        jobs = [memory_job(memory, self.recipe) for memory, problem in good if problem is None]
        fits = iter(isolated(self._together, jobs, TrainingError) if jobs else ())
        return [problem or next(fits) for problem in problems]

    def _step(self, steps: int) -> None:
        self.steps = steps
        self._each_step(steps)

    def _problem(self, memory: NewMemory) -> TrainingError | None:
        """Why the memory cannot be trained, whatever was asked before it was stored, or never was."""
        try:
            problem = too_long(longest(self.trainer.chat, self.recipe, memory), self._context)
        except (ModelError, TrainingError) as error:
            return TrainingError(str(error))
        return TrainingError(problem) if problem else None

    def _together(self, jobs: Sequence[Job]) -> list[Fit]:
        fits = dict(self.trainer.fit(jobs))
        return [fits[n] for n in range(len(jobs))]
