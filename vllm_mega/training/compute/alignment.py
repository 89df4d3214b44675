"""Where an adapter starts, and in which units it moves: both follow from its first gradient.

With B = 0, the first step moves B by the gradient of W, seen through A. A random A of rank 2 to 8 shows next
to nothing of it, and training spends its first steps turning A. So A starts as the right singular vectors of
that gradient (as in LoRA-GA, arXiv 2407.05000, but with B = 0, so that the model is untouched).

Adam moves every number by about the step size, whatever the model; how far that moves the model depends on
large its numbers are. So A and B move in units of their layer (see `lora`), from the tokens of the job:
A in what all columns of W together make of them, B in the size of W x. Models that compute the same with
other numbers (scaled norms, split neurons, layers that add nothing) are trained alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from vllm_mega.training.compute.lora import LoraLinear, LoraStack
from vllm_mega.training.recipe.recipe import AlignmentRules

_TINY = torch.finfo(torch.float32).tiny


@contextmanager
def aligning(
    stack: LoraStack, fresh: Sequence[int], seeds: Sequence[int], rules: AlignmentRules
) -> Iterator[None]:
    """A backward pass within sets the units of all jobs and turns A of the `fresh`, then takes gradients.

    Args:
        stack: the adapters, with the tokens that are passed back assigned to them.
        fresh: jobs that start from nothing; others keep their A and B.
        seeds: of every job.
        rules: of the recipe.
    """

    def witness(lora: LoraLinear, x: Tensor, dy: Tensor) -> None:
        assert lora.jobs_of is not None
        every = torch.arange(stack.jobs + 1, device=x.device)
        bounds = torch.searchsorted(lora.jobs_of, every).tolist()
        for job in range(stack.jobs):
            tokens = slice(bounds[job], bounds[job + 1])
            if bounds[job] == bounds[job + 1]:
                continue
            a, b = lora.of(job)
            set_units(lora, job, x[tokens], stack.settings.scaling, rules)
            lora.put(job, a, b)
            if job in fresh:
                start(lora, job, x[tokens], dy[tokens], seeds[job], rules)

    for lora in stack.modules.values():
        lora.witness = partial(witness, lora)
    try:
        yield
    finally:
        for lora in stack.modules.values():
            lora.witness = None


@torch.no_grad()
def set_units(lora: LoraLinear, job: int, x: Tensor, scaling: float, rules: AlignmentRules) -> None:
    """The units of one job, from its tokens x [T, I]."""
    rows = lora.rows(job)
    lora.reading[rows] = 1.0 / (x.float().abs() @ lora.columns).mean().clamp_min(_TINY)
    # A layer that writes nothing gets no step that one could see, and no division by zero.
    lora.writing[rows] = (_rms(lora.base(x)) / scaling).clamp_min(rules.nothing)


@torch.no_grad()
def start(lora: LoraLinear, job: int, x: Tensor, dy: Tensor, seed: int, rules: AlignmentRules) -> None:
    """A of one job along its gradient dy^T x, so long that A x has its size at the start.

    x [T, I], dy [T, O].
    """
    units = lora.columns * lora.reading[lora.rows(job)][:1]
    seen = x * units.to(x.dtype)
    a = directions(seen, dy, lora.rank, seed, rules)
    low = (seen.float() @ a.T).square().mean(0).sqrt().mean()
    lora.A[lora.rows(job)] = a * (rules.start / low.clamp_min(_TINY))


def _rms(x: Tensor) -> Tensor:
    return x.float().square().mean().sqrt()


@torch.no_grad()
def directions(x: Tensor, dy: Tensor, rank: int, seed: int, rules: AlignmentRules) -> Tensor:
    """The first `rank` right singular vectors of dy^T x: float32 [rank, I]; x [T, I], dy [T, O].

    By subspace iteration; the gradient itself is formed once, [O, I].
    """
    gradient = (dy.T @ x).float()
    gradient /= gradient.norm().clamp_min(torch.finfo(torch.float32).tiny)
    generator = torch.Generator().manual_seed(seed)
    width = min(rank + rules.more, *gradient.shape)
    q = torch.randn(gradient.shape[1], width, generator=generator).to(gradient.device)
    for _ in range(rules.turns):
        q = torch.linalg.qr(gradient @ q).Q
        q = torch.linalg.qr(gradient.T @ q).Q
    turned: Tensor = torch.linalg.svd(gradient @ q, full_matrices=False).Vh
    best = turned @ q.T
    # A singular vector has no sign of its own: its largest part is positive, whatever rounding says.
    best *= best.gather(1, best.abs().argmax(1, keepdim=True)).sign()
    return torch.nn.functional.pad(best[:rank], (0, 0, 0, max(0, rank - len(best))))
