"""The slots of a GPU.

Nothing that a launch reads moves: slots are persistent memory, and so is the plan, so CUDA graphs may hold
the kernels. A slot has room for an adapter of the largest rank on all layers that have slots, so that any S
adapters fit, whichever went before: no step can fail for want of room, or wait until adapters are moved
together. Smaller adapters leave the rest of their slot unused; to have less of it, give slots to fewer layers
(--lora-target-modules), or of a smaller rank (--max-lora-rank). See `copies` for the order of copies and
steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vllm_mega.engine.slots.base import Shape, Sizes
from vllm_mega.engine.slots.copies import Copies
from vllm_mega.engine.slots.packed import PackedAdapter, padded
from vllm_mega.kernels import triton, triton_plan


def transposed(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """lora_A [R, I] and lora_B [O, R] as the kernels read them, flat: [R, I] and [R, O]."""
    return a.flatten(), b.t().flatten()


def slot_numbers(layers: Sequence[Shape], rank: int, dtype: torch.dtype) -> int:
    """Numbers of a slot: what an adapter of this rank on all layers takes."""
    pairs = ((inputs, out) for inputs, outputs in layers for out in outputs)
    return sum(padded(rank * n, dtype) for pair in pairs for n in pair)


class CudaSlots:
    """See `base.Slots`. A slot is a part of device memory that never moves."""

    def __init__(
        self,
        layers: Sequence[Shape],
        sizes: Sizes,
        *,
        dtype: torch.dtype,
        device: torch.device,
        cuda: Any = torch.cuda,
    ) -> None:
        """See `base.MakeSlots`; `dtype` and `device` are those of the model; `cuda`: see `Copies`."""
        room = slot_numbers(layers, sizes.rank, dtype)
        ends = np.cumsum([len(outputs) for _, outputs in layers]).tolist()
        self._weights = torch.zeros(sizes.slots, room, dtype=dtype, device=device)
        self.table = torch.zeros(sizes.slots, ends[-1], 3, dtype=torch.int64, device=device)
        """[S, P of all layers, 3]."""
        self.plan = triton_plan.Plan(_plan_sizes(layers, sizes), dtype, device)
        self._chunks = np.zeros(sizes.slots, np.int32)
        self._copies = Copies(device, cuda)
        self.layers = [
            CudaLayerMixture(self, self.table[:, end - len(outputs) : end], outputs)
            for end, (_, outputs) in zip(ends, layers, strict=True)
        ]

    @property
    def slices(self) -> int:
        """P of all layers."""
        return int(self.table.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that adapters take, whether there are any or not."""
        return self._weights.nbytes + self.table.nbytes

    def put(self, slot: int, adapter: PackedAdapter) -> None:
        """Begin to copy the adapter, which lies in pinned memory, into the slot."""
        weights, count = self._weights[slot], adapter.weights.numel()
        assert count <= weights.numel(), f"an adapter of {count} numbers in a slot of {weights.numel()}"
        row = torch.empty(self.table.shape[1:], dtype=torch.int64, pin_memory=adapter.weights.is_pinned())
        row.numpy()[:] = adapter.at(weights.data_ptr())
        self._copies.send(slot, (weights[:count], adapter.weights), (self.table[slot], row))
        self._chunks[slot] = triton_plan.chunks(int(adapter.table[:, 2].max(initial=0)))

    def clear(self, slot: int) -> None:
        """Let the slot stand for nothing: no later step will read it. Behind earlier ones it is zeroed."""
        self._chunks[slot] = 0
        self._copies.send(slot, (self._weights[slot], None), (self.table[slot], None))

    def settle(self) -> None:
        """See `base.Slots`."""
        self._copies.settle()

    def route(self, slot: NDArray[np.int32], weight: NDArray[np.float32], *, idle: bool = False) -> None:
        """See `base.Slots`."""
        self._copies.route(np.unique(slot[slot >= 0]).tolist())
        self.plan.update(slot, weight, self._chunks, idle=idle)


def _plan_sizes(layers: Sequence[Shape], sizes: Sizes) -> triton_plan.Sizes:
    most = max(len(outputs) for _, outputs in layers)
    return triton_plan.Sizes(sizes.tokens, sizes.slots, sizes.rank, most, requests=sizes.requests)


class CudaLayerMixture:
    """See `base.LayerMixture`."""

    def __init__(self, slots: CudaSlots, table: torch.Tensor, outputs: tuple[int, ...]) -> None:
        self._plan, self._table, self._outputs = slots.plan, table, outputs

    def add_lora_linear(self, y: torch.Tensor, x: torch.Tensor, *_: Any, **__: Any) -> None:
        """See `base.LayerMixture`."""
        triton.add_mixture(y, x, self._table, self._outputs, self._plan)
