"""Training on many workers, which Ray runs: chunks of memories go out, fits come back.

Workers know nothing of the bank; whoever reads the fits writes it. A worker that dies costs what it had in
hand: another one gets that chunk, and trains the same adapters from it.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from vllm_mega.bank.identity import memory_id
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import TrainingError
from vllm_mega.isolation import isolated
from vllm_mega.training.job import Fit, Job, memory_job
from vllm_mega.training.ray_cluster import RayCluster, WorkerLostError
from vllm_mega.training.recipe import Recipe
from vllm_mega.training.trainer import Trainer

ATTEMPTS = 3
"""How many workers may die over one chunk. Then it is likely that the chunk kills them."""

_LOG = logging.getLogger(__name__)


Fits = list[tuple[int, Fit | TrainingError]]
"""Index of a memory and what became of it: an adapter, or the reason why there is none."""


class Fitter(Protocol):
    """Trains memories, somewhere."""

    def fit(self, memories: Sequence[NewMemory]) -> Generator[Fits, None, None]:
        """Chunk after chunk, in the order in which they are done; every memory once.

        A memory whose training fails costs the others of its chunk nothing but time: they are trained again
        without it. Memories of a chunk are trained side by side, which shows in the last bits of their
        adapters. So whoever stores chunks whole and goes on with the memories that are missing gets what one
        run gives.

        Raises:
            ModelError: the model does not have the layers that the recipe asks for.
            TrainingError: a chunk whose workers died again and again.
        """
        ...


class LocalFitter:
    """Trains in this process."""

    def __init__(self, path: Path, recipe: Recipe, trust_remote_code: bool = False) -> None:
        self.recipe = recipe
        self.trainer = Trainer(path, recipe, trust_remote_code=trust_remote_code)

    def fit(self, memories: Sequence[NewMemory]) -> Generator[Fits, None, None]:
        """See `Fitter`."""
        for chunk in chunks(len(memories), self.recipe.jobs):
            jobs = [memory_job(memories[n], self.recipe) for n in chunk]
            yield list(zip(chunk, isolated(self._together, jobs, TrainingError), strict=True))

    def _together(self, jobs: Sequence[Job]) -> list[Fit]:
        fits = dict(self.trainer.fit(jobs))
        return [fits[n] for n in range(len(jobs))]


class Chunks:
    """What is left to hand out, and how often each chunk was lost. Pure."""

    def __init__(self, memories: Sequence[NewMemory], size: int) -> None:
        self._memories = memories
        self._waiting = deque(chunks(len(memories), size))
        self._losses: dict[range, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> range:
        """The next chunk: indices into the memories."""
        return self._waiting.popleft()

    def lost(self, chunk: range, why: str) -> None:
        """The worker that had `chunk` is gone: it comes next.

        Raises:
            TrainingError: that was the last attempt.
        """
        self._losses[chunk] = losses = self._losses.get(chunk, 0) + 1
        if losses == ATTEMPTS:
            names = ", ".join(memory_id(self._memories[n]) for n in chunk)
            raise TrainingError(
                f"{ATTEMPTS} workers died one after the other while they trained these memories: {names}. "
                f"What was trained before is in the bank. Too little memory for so many workers is the usual "
                f"reason: try fewer. The last one: {why}"
            )
        self._waiting.appendleft(chunk)


def chunks(count: int, size: int) -> list[range]:
    """`count` memories as runs of `size`, in order; the last may be shorter."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


class RayFitter:
    """Trains on Ray; the same memories and recipe give the same adapters as LocalFitter.

    A chunk is what the trainer trains side by side, so the same memories share a pass here and there. The
    same to the last bit, if a worker computes with as many threads as the local process: another number of
    threads may add up in another order.
    """

    def __init__(
        self, path: Path, recipe: Recipe, trust_remote_code: bool = False, *, cluster: RayCluster
    ) -> None:
        """Nothing is started before `fit`.

        Args:
            path: the checkpoint; every node has it at this path.
            recipe: how memories are trained.
            trust_remote_code: whether to run code that the checkpoint brings.
            cluster: where.
        """
        self._made_of = (path, recipe, trust_remote_code)
        self._cluster = cluster
        self._size = recipe.jobs
        self.pids: list[int] = []
        """Processes of the workers that have answered, dead ones too; on a cluster, on whatever node."""

    def fit(self, memories: Sequence[NewMemory]) -> Generator[Fits, None, None]:
        """See `Fitter`. Closing the iterator ends the workers."""
        cluster = self._cluster
        left = Chunks(memories, self._size)
        running: dict[Any, tuple[Any, range]] = {}

        def hand_out(worker: Any) -> None:
            if len(left):
                chunk = left.take()
                running[worker.fit.remote([memories[n] for n in chunk])] = (worker, chunk)

        with cluster.connected():
            for _ in range(min(cluster.workers, len(left))):
                hand_out(cluster.start(_Worker, *self._made_of))
            while running:
                reference = cluster.first(list(running))
                worker, chunk = running.pop(reference)
                fits: Fits = []
                try:
                    pid, fits = cluster.answer(reference)
                    self.pids += [pid] if pid not in self.pids else []
                except WorkerLostError as error:
                    _LOG.warning("a worker died; its %d memories are trained by another", len(chunk))
                    left.lost(chunk, str(error))
                    worker = cluster.start(_Worker, *self._made_of)
                hand_out(worker)  # before the fits are written: it has something to do meanwhile
                if fits:
                    yield [(chunk[n], fit) for n, fit in fits]


class _Worker:
    """A process of Ray's with a trainer."""

    def __init__(self, path: Path, recipe: Recipe, trust_remote_code: bool, threads: int) -> None:
        self._made_of = (path, recipe, trust_remote_code)
        self._threads = threads

    @cached_property
    def _fitter(self) -> LocalFitter:
        # Not in __init__: what goes wrong there, Ray reports as the death of the worker.
        torch.set_num_threads(self._threads)
        return LocalFitter(*self._made_of)

    def fit(self, memories: list[NewMemory]) -> tuple[int, Fits]:
        """Process id, and all of `memories`. Clones: the pickle of a view has all that it is a view of."""
        (fits,) = self._fitter.fit(memories)
        return os.getpid(), [(n, _sent(fit)) for n, fit in fits]


def _sent(fit: Fit | TrainingError) -> Fit | TrainingError:
    if isinstance(fit, TrainingError):
        return fit
    return fit._replace(tensors={name: tensor.clone() for name, tensor in fit.tensors.items()})
