"""Where an adapter starts: A along the directions in which its first gradient is largest.

With B = 0, the first step moves B by the gradient of W, seen through A. A random A of rank 2 to 8 shows next
to nothing of it, and training spends its first steps turning A. So A starts as the right singular vectors of
that gradient (as in LoRA-GA, arXiv 2407.05000, but with B = 0, so that the model is untouched).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from vllm_mega.training.lora import LoraLinear, LoraStack

_MORE = 4
"""Directions beyond the rank that the search carries along: it converges faster."""
_TURNS = 2


@contextmanager
def aligning(stack: LoraStack, jobs: Tensor, fresh: Sequence[int], seeds: Sequence[int]) -> Iterator[None]:
    """A backward pass within turns A of the jobs `fresh`, before it takes the gradients.

    Args:
        stack: the adapters.
        jobs: int64 [T], ascending: the job of every token of the row that is passed back.
        fresh: jobs that start from nothing.
        seeds: of every job.
    """
    bounds = torch.searchsorted(jobs, torch.arange(stack.jobs + 1, device=jobs.device)).tolist()

    def witness(lora: LoraLinear, x: Tensor, dy: Tensor) -> None:
        for job in fresh:
            rows = slice(bounds[job], bounds[job + 1])
            lora.of(job)[0].detach().copy_(directions(x[rows], dy[rows], lora.rank, seeds[job]))

    for lora in stack.modules.values():
        lora.witness = partial(witness, lora)
    try:
        yield
    finally:
        for lora in stack.modules.values():
            lora.witness = None


@torch.no_grad()
def directions(x: Tensor, dy: Tensor, rank: int, seed: int) -> Tensor:
    """The first `rank` right singular vectors of dy^T x: float32 [rank, I]; x [T, I], dy [T, O].

    By subspace iteration; the gradient itself is formed once, [O, I].
    """
    gradient = (dy.T @ x).float()
    gradient /= gradient.norm().clamp_min(torch.finfo(torch.float32).tiny)
    generator = torch.Generator().manual_seed(seed)
    width = min(rank + _MORE, *gradient.shape)
    q = torch.randn(gradient.shape[1], width, generator=generator).to(gradient.device)
    for _ in range(_TURNS):
        q = torch.linalg.qr(gradient @ q).Q
        q = torch.linalg.qr(gradient.T @ q).Q
    turned: Tensor = torch.linalg.svd(gradient @ q, full_matrices=False).Vh
    best = turned @ q.T
    # A singular vector has no sign of its own: its largest part is positive, whatever rounding says.
    best *= best.gather(1, best.abs().argmax(1, keepdim=True)).sign()
    return torch.nn.functional.pad(best[:rank], (0, 0, 0, max(0, rank - len(best))))
