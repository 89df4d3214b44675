"""The CPU kernel: dense products over the slots in use, as one registered operator.

The operator is opaque to torch.compile, so decisions that depend on the step (which slots are in
use, whether any is) are taken inside it, when it runs, and never frozen into a graph. It reads the
routing from persistent buffers for the same reason.

Importing this module registers `torch.ops.vllm_mega.add_mixture`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

# A product against all slots reads the weights in place, where they lie; against some of them it has
# to gather them first. Up to this many columns the full product is the cheaper of the two.
_DENSE_COLUMNS = 512


def add_mixture(
    y: torch.Tensor,
    x: torch.Tensor,
    a: Sequence[torch.Tensor],
    b: Sequence[torch.Tensor],
    weight: torch.Tensor,
    used: torch.Tensor,
) -> None:
    """Add the mixture of every token to `y`, in place.

    Args:
        y: [T, sum of O_i]: the output slices, side by side.
        x: [T, I].
        a: per output slice [S, 1, R, I].
        b: per output slice [S, 1, O_i, R] as a view of memory laid out [S, R, O_i], so that no call
            has to transpose (see `engine.manager`).
        weight: [at least T, S], zero where a token does not use a slot; 0 in rows past the last token.
        used: [1 + S] integers: how many slots have a weight in this step, then which.
    """
    n = int(used[0])
    if n == 0:
        return
    slots, rank = a[0].shape[0], a[0].shape[2]
    some = used[1 : 1 + n] if n < slots and slots * rank > _DENSE_COLUMNS else None
    w = weight[: x.shape[0]] if some is None else weight[: x.shape[0], some]
    w = w.unsqueeze(-1)
    idle = w == 0
    offset = 0
    for a_i, b_i in zip(a, b, strict=True):
        rows = a_i.squeeze(1)
        columns = b_i.squeeze(1).transpose(1, 2)
        if some is not None:
            rows, columns = rows[some], columns[some]
        hidden = x @ rows.flatten(0, 1).t()
        # Not only zero times: an adapter that overflows must not reach the tokens that do not use it.
        hidden = (hidden.view(x.shape[0], -1, rank) * w).masked_fill_(idle, 0).flatten(1)
        width = columns.shape[2]
        y[:, offset : offset + width].addmm_(hidden, columns.flatten(0, 1))
        offset += width


_LIBRARY: Any = torch.library.Library("vllm_mega", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "add_mixture(Tensor(a!) y, Tensor x, Tensor[] a, Tensor[] b, Tensor weight, Tensor used) -> ()",
    tags=(torch.Tag.needs_fixed_stride_order,),
)
_LIBRARY.impl("add_mixture", add_mixture, "CPU")
# Nothing to shape: the operator changes `y` and returns nothing.
torch.library.register_fake("vllm_mega::add_mixture", lambda *_: None, lib=_LIBRARY)
