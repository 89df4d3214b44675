"""The slots of a GPU.

Never run on a GPU: tested with the kernels under Triton's interpreter. Nothing that a launch reads moves:
slots are persistent memory, and so is the plan, so CUDA graphs may hold the kernels. All copies are issued
on the current stream, behind the steps that still read what they replace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vllm_mega.engine.slots.base import Shape
from vllm_mega.engine.slots.packed import PackedAdapter, padded
from vllm_mega.kernels import triton, triton_plan


def transposed(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """lora_A [R, I] and lora_B [O, R] as the kernels read them, flat: [R, I] and [R, O]."""
    return a.flatten(), b.t().flatten()


class CudaSlots:
    """See `base.Slots`. A slot is a part of device memory that never moves."""

    def __init__(
        self,
        layers: Sequence[Shape],
        slots: int,
        tokens: int,
        rank: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """See `base.MakeSlots`; `dtype` and `device` are those of the model."""
        sizes = [(inputs, out) for inputs, outputs in layers for out in outputs]
        room = sum(padded(rank * n, dtype) for pair in sizes for n in pair)
        self._weights = torch.zeros(slots, room, dtype=dtype, device=device)
        self.table = torch.zeros(slots, len(sizes), 3, dtype=torch.int64, device=device)
        """[S, P of all layers, 3]."""
        most = max(len(outputs) for _, outputs in layers)
        self.plan = triton_plan.Plan(triton_plan.Sizes(tokens, slots, rank, most), dtype, device)
        self._chunks = np.zeros(slots, np.int32)
        ends = np.cumsum([len(outputs) for _, outputs in layers]).tolist()
        self.layers = [
            CudaLayerMixture(self, self.table[:, end - len(outputs) : end], outputs)
            for end, (_, outputs) in zip(ends, layers, strict=True)
        ]

    @property
    def slices(self) -> int:
        """P of all layers."""
        return int(self.table.shape[1])

    def put(self, slot: int, adapter: PackedAdapter) -> None:
        """Copy the adapter into the slot."""
        self._weights[slot, : adapter.weights.numel()].copy_(adapter.weights, non_blocking=True)
        self.table[slot].copy_(torch.from_numpy(adapter.at(self._weights[slot].data_ptr())))
        self._chunks[slot] = triton_plan.chunks(int(adapter.table[:, 2].max(initial=0)))

    def clear(self, slot: int) -> None:
        """Let the slot stand for nothing."""
        self.table[slot].zero_()
        self._chunks[slot] = 0

    def route(self, slot: NDArray[np.int32], weight: NDArray[np.float32]) -> None:
        """Take over the routing table of a step: slot and weight [T, K]."""
        self.plan.update(slot, weight, self._chunks)


class CudaLayerMixture:
    """See `base.LayerMixture`."""

    def __init__(self, slots: CudaSlots, table: torch.Tensor, outputs: tuple[int, ...]) -> None:
        self._plan, self._table, self._outputs = slots.plan, table, outputs

    def add_lora_linear(self, y: torch.Tensor, x: torch.Tensor, *_: Any, **__: Any) -> None:
        """See `base.LayerMixture`."""
        triton.add_mixture(y, x, self._table, self._outputs, self._plan)
