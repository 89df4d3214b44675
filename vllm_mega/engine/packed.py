"""Adapters packed for the kernels: one block of memory each, true ranks, and a table of where things lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Pair = tuple[torch.Tensor, torch.Tensor]
"""lora_A [R, I] and lora_B [O, R], scaling included."""


@dataclass
class PackedAdapter:
    """An adapter in host memory."""

    weights: torch.Tensor
    """[n] all A and B, one behind the other."""
    table: NDArray[np.int64]
    """[P, 3] by output slice of the whole model: address of A, address of B, rank; 0 where it has none."""

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        return self.weights.nbytes


def pack(
    slices: Sequence[Pair | None], dtype: torch.dtype, layout: Callable[[torch.Tensor], torch.Tensor]
) -> PackedAdapter:
    """Pack an adapter.

    Args:
        slices: its weights for every output slice of the model, None where it has none.
        dtype: of the model.
        layout: from B [O, R] to what the kernel reads, flat.
    """
    table = np.zeros((len(slices), 3), np.int64)
    parts, position = [], 0
    for row, pair in zip(table, slices, strict=True):
        if pair is None:
            continue
        row[2] = pair[0].shape[0]
        for column, part in enumerate((pair[0].to(dtype).reshape(-1), layout(pair[1].to(dtype)))):
            row[column] = position
            parts.append(part)
            position += part.numel()
    weights = torch.cat(parts) if parts else torch.empty(0, dtype=dtype)
    table[table[:, 2] > 0, :2] *= weights.element_size()
    table[table[:, 2] > 0, :2] += weights.data_ptr()
    return PackedAdapter(weights, table)
