"""Attention over a packed row: exact, segment by segment, with a backward pass of its own.

Registered with transformers as an attention implementation, so every model that uses its attention
interface can be trained on packed rows; the segments of the row come by a context (`attending`), as many
models do not pass on what they are called with. Sliding windows and caps on scores are the layer's own.
What stands before start is run once (`recording`), and from then on its keys and values are only looked at.
Memory traffic decides about the speed here: the probabilities are kept in the model's type, and what is not a
matrix product is one pass of a fused kernel where there is one. On GPUs torch has better (`fused_attention`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface

from vllm_mega.errors import ModelError
from vllm_mega.training.compute import fused_attention
from vllm_mega.training.compute import fused_kernels as kernels
from vllm_mega.training.recipe.segments import Segments

NAME = "vllm_mega_packed"


class _Rule(NamedTuple):
    """What becomes of the product of a query and a key, beside the mask."""

    scaling: float
    softcap: float | None
    """Scores are softcap * tanh(scaling * product / softcap); None: scaling * product."""


Past = dict[Any, tuple[Tensor, Tensor]]
"""By module of attention: keys and values of the leads, [P, G, d] each, as the model attends to them."""


class _Row:
    """The segments of the row that runs, and their masks, made once for each window."""

    def __init__(self, segments: tuple[Segments, ...], past: Past, *, records: bool) -> None:
        self.segments = segments
        self.past = past
        self.records = records
        self._masks: dict[int | None, list[Tensor]] = {}
        self._folded: dict[tuple[int | None, int, torch.dtype], list[Tensor]] = {}

    def masks(self, window: int | None) -> list[Tensor]:
        """Of every segment, float32 [E, Q, S]."""
        if window not in self._masks:
            self._masks[window] = [segment.within(window) for segment in self.segments]
        return self._masks[window]

    def folded(self, window: int | None, heads: int, dtype: torch.dtype) -> list[Tensor]:
        """The same for `fused_attention`, where so many query heads share a key."""
        key = window, heads, dtype
        if key not in self._folded:
            self._folded[key] = [fused_attention.folded(mask, heads, dtype) for mask in self.masks(window)]
        return self._folded[key]

    @cached_property
    def places(self) -> Tensor:
        """See `fused_attention.inverse`."""
        return fused_attention.inverse(self.segments)

    def seen(self, module: Any, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Of those of the row, [T, G, d], the keys and values that its segments count through."""
        if self.records:
            self.past[module] = k.detach(), v.detach()
        if self.records or not self.past:
            return k, v
        before = self.past[module]
        return torch.cat([before[0], k]), torch.cat([before[1], v])


_ROW: ContextVar[_Row] = ContextVar("row")


@contextmanager
def attending(segments: tuple[Segments, ...], past: Past | None = None) -> Iterator[None]:
    """Models whose attention is `NAME` run a row of these segments while the context lasts.

    `past`: of the leads that the segments look at; None: they look at none.
    """
    with _running(_Row(segments, past or {}, records=False)):
        yield


@contextmanager
def recording(segments: tuple[Segments, ...]) -> Iterator[Past]:
    """The same for the row of the leads themselves, which fills what is given."""
    row = _Row(segments, {}, records=True)
    with _running(row):
        yield row.past


@contextmanager
def _running(row: _Row) -> Iterator[None]:
    token = _ROW.set(row)
    try:
        yield
    finally:
        _ROW.reset(token)


class _Attend(torch.autograd.Function):
    """q [T, H, d] of one packed row, k and v [P + T, G, d] -> [T, H, d]; H is a multiple of G."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: tuple[Segments, ...], masks: list[Tensor],
        rule: _Rule,
    ) -> Tensor:  # fmt: skip
        out, groups = torch.empty(q.shape, dtype=q.dtype, device=q.device), k.shape[1]
        kept: list[Tensor] = []
        for segment, mask in zip(segments, masks, strict=True):
            queries = _queries(segment)
            qs = _gather(q, queries, groups, segment)
            ks, vs = (_gather(x, segment.keys, groups, segment) for x in (k, v))
            p = _probabilities(qs @ ks.transpose(-1, -2), mask, rule)
            _scatter(out, p @ vs, queries, segment)
            kept += (queries, qs, ks, vs, p)
        ctx.save_for_backward(*kept)
        ctx.segments, ctx.rule, ctx.shapes = segments, rule, (q.shape, k.shape)
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
            ds = _scores_grad(do @ vs.transpose(-1, -2), p, qs, ks, ctx.rule)
            _scatter(dq, ds @ ks, queries, segment)
            _scatter_add(dk, ds.transpose(-1, -2) @ qs, segment.keys)
        return dq, dk.to(grad.dtype), dv.to(grad.dtype), None, None, None


def _probabilities(products: Tensor, mask: Tensor, rule: _Rule) -> Tensor:
    """Of the products of queries and keys (which are lost), in their type: [G, E, X * Q, S]."""
    if rule.softcap is None:
        return _softmax(products, mask, rule.scaling)
    return _softmax(_tanh(products, rule).mul_(rule.softcap).to(products.dtype), mask, 1.0)


def _scores_grad(dp: Tensor, p: Tensor, qs: Tensor, ks: Tensor, rule: _Rule) -> Tensor:
    """From the gradient of probabilities `p` (which is lost) to that of the products: [G, E, X * Q, S]."""
    if rule.softcap is None:
        return _softmax_grad(dp, p, rule.scaling)
    slope = 1.0 - _tanh(qs @ ks.transpose(-1, -2), rule) ** 2
    return _softmax_grad(dp, p, rule.scaling).mul_(slope)


def _tanh(products: Tensor, rule: _Rule) -> Tensor:
    """Scores as parts of the softcap, float32."""
    assert rule.softcap is not None
    return torch.tanh(products.float() * (rule.scaling / rule.softcap))


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


def _scatter(out: Tensor, block: Tensor, index: Tensor, segment: Segments) -> None:
    """The inverse of `_gather` for queries: [G, E, H/G * W, d] into `out`, [T, H, d]."""
    if kernels.usable(out, block):
        kernels.scatter_(out, block, index)
        return
    groups, segments, _, size = block.shape
    found = block.view(groups, segments, out.shape[1] // groups, -1, size).permute(1, 3, 0, 2, 4)
    # No mask: a GPU would have to be waited for until it is known how many there are.
    out[segment.targets] = found.reshape(-1, *out.shape[1:])[segment.rows]


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
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """What transformers calls, in a context `attending`: [1, H, T, d] -> [1, T, H, d].

    Raises:
        ModelError: the layer has attention sinks.
    """
    if options.get("s_aux") is not None:
        raise ModelError(f"{type(module).__name__} has attention sinks, which packed rows cannot run")
    scaling = options.get("scaling")
    rule = _Rule(query.shape[-1] ** -0.5 if scaling is None else scaling, options.get("softcap"))
    row = _ROW.get()
    # As the projections wrote them. Not x[0]: its gradient is a copy of x, which that of squeeze is not.
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    k, v = row.seen(module, k, v)
    window = options.get("sliding_window")
    if fused_attention.usable(q, rule.softcap):
        masks = row.folded(window, q.shape[1] // k.shape[1], q.dtype)
        return fused_attention.attend(q, k, v, row.segments, masks, row.places, rule.scaling)[None], None
    return _Attend.apply(q, k, v, row.segments, row.masks(window), rule)[None], None


AttentionInterface.register(NAME, packed_attention)
