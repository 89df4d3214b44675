"""Workers on a Ray cluster that are asked one thing at a time."""

from __future__ import annotations

from typing import Any

from vllm_mega.errors import MegaError, TrainingError
from vllm_mega.ray_cluster import RayCluster


class WorkerLostError(Exception):
    """The process of a worker, its node or its answer is gone. Never leaves this package."""


class RayWorkers(RayCluster):
    """A cluster whose workers are objects of a class."""

    def start(self, kind: type, *args: Any) -> Any:
        """A new worker `kind(*args, threads)`; dead ones are not started again."""
        threads = self.threads
        return self.ray.remote(num_cpus=threads)(kind).remote(*args, threads)

    def first(self, references: list[Any]) -> Any:
        """The first of `references` that is done or lost."""
        (reference,), _ = self.ray.wait(references, num_returns=1)
        return reference

    def answer(self, reference: Any) -> Any:
        """What the worker returned.

        Raises:
            MegaError: whatever it raised.
            TrainingError: it raised something else.
            WorkerLostError: it is gone.
        """
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, MegaError):
                raise cause from error
            raise TrainingError(f"a worker failed: {cause!r}") from error
        except self.ray.exceptions.RayError as error:
            raise WorkerLostError(str(error).strip()) from error
