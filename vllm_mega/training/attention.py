"""Attention over a packed row: exact, segment by segment, with a backward pass of its own.

Registered with transformers as an attention implementation, so every model that uses its attention
interface can be trained on packed rows. Memory traffic decides about the speed here: the probabilities are
kept in the model's type, and what is not a matrix product is one pass of a fused kernel where there is one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_mega.training import fused_kernels as kernels
from vllm_mega.training.packing import Segments

NAME = "vllm_mega_packed"


class _Attend(torch.autograd.Function):
    """q [T, H, d], k and v [T, G, d] of one packed row -> [T, H, d]; H is a multiple of G."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segments, ...], scaling: float
    ) -> Tensor:
        out, groups = torch.empty(q.shape, dtype=q.dtype, device=q.device), k.shape[1]
        kept: list[Tensor] = []
        for segment in segments:
            queries = _queries(segment)
            qs = _gather(q, queries, groups, segment)
            ks, vs = (_gather(x, segment.keys, groups, segment) for x in (k, v))
            p = _softmax(qs @ ks.transpose(-1, -2), segment.mask, scaling)
            _scatter(out, p @ vs, queries)
            kept += (queries, qs, ks, vs, p)
        ctx.save_for_backward(*kept)
        ctx.segments, ctx.scaling, ctx.shapes = segments, scaling, (q.shape, k.shape)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        shape, small = ctx.shapes
        dq = torch.empty(shape, dtype=grad.dtype, device=grad.device)
        # All examples of an adapter add to the keys of its prefix: sums in float32.
        dk, dv = (torch.zeros(small, device=grad.device) for _ in range(2))
        kept = iter(ctx.saved_tensors)
        for segment in ctx.segments:
            queries, qs, ks, vs, p = (next(kept) for _ in range(5))
            do = _gather(grad, queries, small[1], segment)
            _scatter_add(dv, p.transpose(-1, -2) @ do, segment.keys)
            ds = _softmax_grad(do @ vs.transpose(-1, -2), p, ctx.scaling)
            _scatter(dq, ds @ ks, queries)
            _scatter_add(dk, ds.transpose(-1, -2) @ qs, segment.keys)
        return dq, dk.to(grad.dtype), dv.to(grad.dtype), None, None


def _queries(segment: Segments) -> Tensor:
    """int64 [E * Q]: positions of the queries in the row; padding is -1."""
    return torch.full_like(segment.queries, -1).index_copy_(0, segment.rows, segment.targets)


def _gather(x: Tensor, index: Tensor, groups: int, segment: Segments) -> Tensor:
    """[T, H, d] at `index`, [E * W] -> [G, E, H/G * W, d]: heads that share a key stand side by side.

    Padding becomes 0.
    """
    segments = segment.mask.shape[0]
    if kernels.usable(x):
        return kernels.gather(x, index, groups, segments)
    found = x[index.clamp(min=0)] * (index >= 0)[:, None, None]
    found = found.view(segments, -1, groups, x.shape[1] // groups, x.shape[2])
    return found.permute(2, 0, 3, 1, 4).reshape(groups, segments, -1, x.shape[2])


def _scatter(out: Tensor, block: Tensor, index: Tensor) -> None:
    """The inverse of `_gather`: [G, E, H/G * W, d] into `out`, [T, H, d]."""
    if kernels.usable(out, block):
        kernels.scatter_(out, block, index)
        return
    groups, segments, _, size = block.shape
    found = block.view(groups, segments, out.shape[1] // groups, -1, size).permute(1, 3, 0, 2, 4)
    out[index[index >= 0]] = found.reshape(-1, *out.shape[1:])[index >= 0]


def _scatter_add(out: Tensor, block: Tensor, index: Tensor) -> None:
    """Add [G, E, S, d] to `out`, float32 [T, G, d], at `index`, [E * S]."""
    if kernels.usable(block):
        kernels.scatter_add_(out, block, index)
    else:
        out.index_add_(0, index, block.flatten(1, 2).transpose(0, 1).float())


def _softmax(scores: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Softmax in float32, kept in the type of `scores` (which are lost): [G, E, X * Q, S]."""
    if kernels.usable(scores):
        return kernels.softmax_(scores, mask, scaling)
    apart = scores.view(*scores.shape[:2], -1, *mask.shape[1:])
    return (apart.float() * scaling + mask[:, None]).softmax(-1).to(scores.dtype).view(scores.shape)


def _softmax_grad(dp: Tensor, p: Tensor, scaling: float) -> Tensor:
    """From the gradient of probabilities `p` (which is lost) to that of the scores: [G, E, X * Q, S]."""
    if kernels.usable(dp, p):
        return kernels.softmax_grad_(dp, p, scaling)
    mean = (dp * p).sum(-1, keepdim=True, dtype=torch.float32).to(dp.dtype)
    return dp.sub_(mean).mul_(p).mul_(scaling)


def packed_attention(
    _module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """What transformers calls: [1, H, T, d] -> [1, T, H, d]; `packed` are the segments."""
    scaling = options.get("scaling") or query.shape[-1] ** -0.5
    # As the projections wrote them. Not x[0]: its gradient is a copy of x, which that of squeeze is not.
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    return _Attend.apply(q, k, v, options["packed"], scaling)[None], None
