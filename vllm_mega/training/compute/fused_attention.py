"""Attention over a packed row with torch's fused kernels, for GPUs.

There a step is not short of products but of launches, of which `attention` needs five times as many. Autograd
writes the backward pass; a fused kernel keeps no probabilities for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vllm_mega.training.recipe.segments import Segments


def usable(q: Tensor, softcap: float | None) -> bool:
    """Whether these kernels are the faster ones, and can compute what is asked for."""
    return q.is_cuda and softcap is None


def folded(mask: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """The mask [E, Q, S] of a segment for `heads` query heads a key: [E, 1, X * Q, S]."""
    return mask.to(dtype).repeat(1, heads, 1)[:, None]


def inverse(segments: Sequence[Segments]) -> Tensor:
    """Where each token of the row stands among the queries of all segments, padding included: int64 [T]."""
    widths = [len(one.queries) for one in segments]
    rows = torch.cat([one.rows + sum(widths[:n]) for n, one in enumerate(segments)])
    targets = torch.cat([one.targets for one in segments])
    return torch.empty_like(rows).index_copy_(0, targets, rows)


def attend(
    q: Tensor, k: Tensor, v: Tensor, segments: Sequence[Segments], masks: Sequence[Tensor], places: Tensor,
    scaling: float,
) -> Tensor:  # fmt: skip
    """The output of attention, [T, H, d]; H is a multiple of G.

    Args:
        q: queries of one packed row, [T, H, d].
        k: keys of the leads and of the row, [P + T, G, d].
        v: their values.
        segments: of the row.
        masks: of each segment, `folded`.
        places: their `inverse`.
        scaling: of the products.
    """
    parts = [_segment(q, k, v, *one, scaling) for one in zip(segments, masks, strict=True)]
    return torch.cat(parts).index_select(0, places)


def _segment(q: Tensor, k: Tensor, v: Tensor, one: Segments, mask: Tensor, scaling: float) -> Tensor:
    """[E * Q, H, d], padding included."""
    (_, heads, size), groups, count = q.shape, k.shape[1], len(mask)
    qs = q.index_select(0, one.queries).view(count, -1, groups, heads // groups, size)
    # Query heads that share a key stand side by side, as more queries of that head.
    qs = qs.permute(0, 2, 3, 1, 4).reshape(count, groups, -1, size)
    ks, vs = (_picked(x, one.keys).view(count, -1, groups, size).transpose(1, 2) for x in (k, v))
    out = scaled_dot_product_attention(qs, ks, vs, attn_mask=mask, scale=scaling)
    apart = out.reshape(count, groups, heads // groups, -1, size)
    return apart.permute(0, 3, 1, 2, 4).reshape(-1, heads, size)


def _picked(x: Tensor, index: Tensor) -> Tensor:
    """Rows of `x`. All examples of an adapter add to the keys of its prefix: gradients add up in float32."""
    return x.float().index_select(0, index).to(x.dtype)
