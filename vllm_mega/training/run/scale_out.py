"""Training on many workers, which Ray starts: each leases jobs from the catalog, as a single trainer does.

A worker that dies costs what it had in hand: the leases end, and another trains the same adapters from it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch

from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.errors import TrainingError
from vllm_mega.training.run.crew import Outcomes, Task, here
from vllm_mega.training.run.outcome import Failed, Trained
from vllm_mega.training.run.ray_workers import RayWorkers, WorkerLostError

LOSSES = 3
"""How many workers may die one after the other, and none has trained anything in between."""

_LOG = logging.getLogger(__name__)


class RayCrew:
    """Workers on a Ray cluster; the same memories and recipe give the same adapters as `crew.here`.

    The same to the last bit, if a worker computes with as many threads as the local process: another number
    of threads may add up in another order.
    """

    def __init__(self, cluster: RayWorkers) -> None:
        """Nothing is started yet."""
        self._cluster = cluster
        self.pids: list[int] = []
        """Processes of the workers that have answered, dead ones too; on a cluster, on whatever node."""

    def __call__(self, task: Task, names: Sequence[MemoryName]) -> Outcomes:
        """See `crew.Crew`. Closing the generator ends the workers.

        Raises:
            ConfigError: workers on several hosts, and a catalog that serves one.
            MegaError: what a worker raised.
            TrainingError: workers die again and again, and train nothing.
        """
        cluster, losses = self._cluster, 0
        with cluster.connected():
            cluster.require_reach(task.catalog)
            lots = -(-len(names) // task.recipe.jobs)
            crew = [cluster.start(_Worker, task, list(names)) for _ in range(min(cluster.workers, lots))]
            running = {worker.lot.remote(): worker for worker in crew}
            while running:
                reference = cluster.first(list(running))
                worker = running.pop(reference)
                try:
                    pid, outcomes = cluster.answer(reference)
                except WorkerLostError as error:
                    losses += 1
                    _require_life(losses, error)
                    worker = cluster.start(_Worker, task, list(names))
                    running[worker.lot.remote()] = worker
                    continue
                losses = 0
                self.pids += [pid] if pid not in self.pids else []
                if outcomes is not None:
                    running[worker.lot.remote()] = worker
                    yield outcomes


def _require_life(losses: int, error: WorkerLostError) -> None:
    if losses > LOSSES:
        raise TrainingError(
            f"{losses} workers died one after the other, and none has trained a memory. What was trained "
            "before is in the bank. Too little memory for so many workers is the usual reason: try fewer. "
            f"The last one: {error}"
        ) from error
    _LOG.warning("a worker died; what it had in hand is trained by another")


class _Worker:
    """A process of Ray's that trains."""

    def __init__(self, task: Task, names: list[MemoryName], threads: int) -> None:
        self._made_of = (task, names)
        self._threads = threads

    @cached_property
    def _lots(self) -> Iterator[list[Trained | Failed]]:
        # Not in __init__: what goes wrong there, Ray reports as the death of the worker.
        torch.set_num_threads(self._threads)
        return here(*self._made_of)

    def lot(self) -> tuple[int, Any]:
        """Process id, and what became of the next memories, trained side by side; None: none is left."""
        return os.getpid(), next(self._lots, None)
