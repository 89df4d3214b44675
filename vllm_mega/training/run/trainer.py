"""Training many adapters at once on one frozen model.

What makes it fast: the layers below all adapters run once for all examples; adapters of many memories go
through one pass (`lora`); nothing is padded and what examples share is computed once (`packing`,
`attention`); logits exist for labels and tokens in question only (`loss`); adapters start where their
gradient points (`alignment`); and each memory stops when it is learnt.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch

from vllm_mega.training.compute.frozen import FrozenModel
from vllm_mega.training.recipe.job import Fit, Job
from vllm_mega.training.run.round import EachStep, Round, unwatched

_LOG = logging.getLogger(__name__)


class Trainer(FrozenModel):
    """Trains adapters, `recipe.jobs` at a time."""

    each_step: EachStep = staticmethod(unwatched)
    """Is called before every step of a round; what it raises ends the training."""

    def fit(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Fit]]:
        """Train an adapter for each job: (index into `jobs`, what became of it), in the order of finishing.

        The same jobs in the same order give the same tensors on the same CPU; a GPU adds up in another order
        each time. Which jobs share a round changes them a little, as the number of threads may: sums are
        taken in another order, and tokens that are likely for one are looked at for all (see `loss`).

        Raises:
            TrainingError: a loss that is not finite.
        """
        size = self.recipe.jobs
        done = 0
        while done < len(jobs):
            chunk = jobs[done : done + size]
            try:
                fits = list(Round(self, chunk).run(self.each_step))
            except (MemoryError, RuntimeError) as error:
                if not _is_short_of_memory(error) or len(chunk) == 1:
                    raise
                size = len(chunk) // 2
                _LOG.warning("memory is short: %d adapters at once from here on", size)
                continue
            yield from ((done + n, fit) for n, fit in fits)
            done += len(chunk)


def _is_short_of_memory(error: Exception) -> bool:
    """Whether smaller batches could help; torch has no exception of its own for CPUs."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
