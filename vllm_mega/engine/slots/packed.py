"""Adapters packed for the kernels: one block of memory each, true ranks, and a table of where things lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

ALIGNMENT = 64
"""Bytes: of a cache line, and more than any kernel's loads ask for."""
Pair = tuple[torch.Tensor, torch.Tensor]
"""lora_A [R, I] and lora_B [O, R], scaling included."""
Layout = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From a `Pair` to what the kernels read, both flat."""


@dataclass
class PackedAdapter:
    """An adapter in host memory."""

    weights: torch.Tensor
    """[n] all A and B, one behind the other."""
    table: NDArray[np.int64]
    """[P, 3] by output slice of the whole model: where A and B begin in `weights`, in bytes; rank, or 0."""

    def at(self, address: int) -> NDArray[np.int64]:
        """[P, 3] addresses of A and B, and the rank, with `weights` at `address`; zeros where rank is 0."""
        moved = self.table + np.array([address, address, 0])
        return np.where(self.table[:, 2:] > 0, moved, 0)

    def erase(self) -> None:
        """Overwrite its weights; nobody may be reading them."""
        with torch.inference_mode():  # it may have been made in one
            self.weights.zero_()

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        return self.weights.nbytes


def pack(
    slices: Sequence[Pair | None], dtype: torch.dtype, layout: Layout, *, pin_memory: bool = False
) -> PackedAdapter:
    """Pack an adapter.

    Args:
        slices: its weights for every output slice of the model, None where it has none.
        dtype: of the model.
        layout: that of the kernels.
        pin_memory: whether copies to a device shall not wait.
    """
    table = np.zeros((len(slices), 3), np.int64)
    parts: list[tuple[int, torch.Tensor]] = []
    end = 0
    for row, pair in zip(table, slices, strict=True):
        if pair is None:
            continue
        row[2] = pair[0].shape[0]
        for column, part in enumerate(layout(pair[0].to(dtype), pair[1].to(dtype))):
            row[column] = end * dtype.itemsize
            parts.append((end, part))
            end += padded(part.numel(), dtype)
    weights = torch.zeros(end, dtype=dtype, pin_memory=pin_memory)
    for begin, part in parts:
        weights[begin : begin + part.numel()] = part
    return PackedAdapter(weights, table)


def padded(count: int, dtype: torch.dtype) -> int:
    """How many numbers `count` numbers take, when each part begins at a multiple of `ALIGNMENT`."""
    return -(-count * dtype.itemsize // ALIGNMENT) * ALIGNMENT // dtype.itemsize
