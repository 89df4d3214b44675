"""The definition: what a mixture adds to the output of a linear layer, in plain float32.

Every fast path is tested against this one. Nothing here is fast, and nothing here may be clever.
"""

from __future__ import annotations

import torch


def add_mixture(
    y: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    slot: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    """`y[t] + sum_k weight[t,k] * b[s] @ (a[s] @ x[t])` with `s = slot[t,k]`.

    Args:
        y: [T, O], the output of the base layer; not changed.
        x: [T, I], its input.
        a: [S, R, I], lora_A of every slot.
        b: [S, O, R], lora_B of every slot, scaling included.
        slot: [T, K] integers; negative means the null slot, which adds nothing.
        weight: [T, K].

    Returns:
        [T, O] in float32.
    """
    out = y.float().clone()
    for t in range(x.shape[0]):
        for k in range(slot.shape[1]):
            s = int(slot[t, k])
            if s >= 0:
                hidden = a[s].float() @ x[t].float()
                out[t] += float(weight[t, k]) * (b[s].float() @ hidden)
    return out
