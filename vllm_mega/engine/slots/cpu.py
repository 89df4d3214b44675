"""The slots of a CPU, and where vLLM's LoRA layers hand over to our kernels.

vLLM's layers call `punica_wrapper.add_lora_linear` with their stacked weights. Every layer gets a wrapper
of its own here, which knows where the layer's weights lie, so the stacked weights are not needed. It
replaces the CPU path of vLLM 0.32 altogether, which reads slot -1 ("no adapter") as the last slot
(vllm-project/vllm #48421, #49656).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vllm_mega.engine.slots.base import Shape, Sizes
from vllm_mega.engine.slots.packed import PackedAdapter
from vllm_mega.kernels import cpu
from vllm_mega.kernels.cpu import Layer, Plan


class CpuSlots:
    """See `base.Slots`. A slot is a row of addresses: an adapter that comes or goes moves no weights."""

    def __init__(self, layers: Sequence[Shape], sizes: Sizes) -> None:
        """See `base.MakeSlots`."""
        ends = np.cumsum([len(outputs) for _, outputs in layers])
        self.table = torch.zeros(sizes.slots, int(ends[-1]), 3, dtype=torch.int64)
        """[S, P of all layers, 3]."""
        self.plan = Plan(sizes.tokens, sizes.slots)
        self.layers = [
            CpuLayerMixture(self, Layer(self.table[:, end - len(outputs) : end], inputs, outputs, sizes.rank))
            for end, (inputs, outputs) in zip(ends.tolist(), layers, strict=True)
        ]
        self._numbers = self.table.numpy()
        self._starts = np.concatenate(([0], ends[:-1]))
        self._kept: dict[int, PackedAdapter] = {}

    @property
    def slices(self) -> int:
        """P of all layers."""
        return int(self.table.shape[1])

    def put(self, slot: int, adapter: PackedAdapter) -> None:
        """Let the slot stand for the adapter, whose memory is kept until `clear`."""
        self._kept[slot] = adapter
        self._numbers[slot] = adapter.at(adapter.weights.data_ptr())
        self._touch()

    def clear(self, slot: int) -> None:
        """Let the slot stand for nothing."""
        self._numbers[slot] = 0
        self._kept.pop(slot, None)
        self._touch()

    def settle(self) -> None:
        """See `base.Slots`; here nothing is ever copied."""

    def route(self, slot: NDArray[np.int32], weight: NDArray[np.float32], *, idle: bool = False) -> None:
        """See `base.Slots`; `idle` says nothing that the table does not."""
        self.plan.update(slot, weight)
        self._touch()

    def _touch(self) -> None:
        """Find the layers that this step's adapters change; the others will not even be asked."""
        ranks = self._numbers[self.plan.used, :, 2].any(axis=0)
        active = np.logical_or.reduceat(ranks, self._starts)
        for layer, flag in zip(self.layers, active.tolist(), strict=True):
            layer.active = flag


class CpuLayerMixture:
    """See `base.LayerMixture`."""

    def __init__(self, slots: CpuSlots, layer: Layer) -> None:
        self._plan, self._layer = slots.plan, layer
        self.active = False

    def add_lora_linear(self, y: torch.Tensor, x: torch.Tensor, *_: Any, **__: Any) -> None:
        """See `base.LayerMixture`."""
        # A compiled graph must not freeze what depends on the step; the operator finds out by itself.
        if torch.compiler.is_compiling() or self.active:
            cpu.add_mixture(y, x, self._layer, self._plan)
