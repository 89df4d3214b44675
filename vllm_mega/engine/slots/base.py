"""What the engine asks of its slots, whatever the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vllm_mega.engine.slots.packed import PackedAdapter

Shape = tuple[int, tuple[int, ...]]
"""I and the O_p of a layer."""


class Sizes(NamedTuple):
    """What slots must have room for."""

    slots: int
    """S."""
    tokens: int
    """Most tokens of a step."""
    requests: int
    """Most requests of a step."""
    rank: int
    """Largest rank."""


class LayerMixture(Protocol):
    """What one of vLLM's LoRA layers takes for its punica wrapper."""

    def add_lora_linear(self, y: torch.Tensor, x: torch.Tensor, *_: Any, **__: Any) -> None:
        """Add the step's mixtures to `y` [T, O]; the rest is what vLLM passes to kernels that need it."""


class Slots(Protocol):
    """The slots of all layers: which adapter's weights a slot stands for, and the routing of the step."""

    @property
    def slices(self) -> int:
        """P of all layers: how many outputs an adapter may change."""

    @property
    def layers(self) -> Sequence[LayerMixture]:
        """In the order in which adapters are packed."""

    def put(self, slot: int, adapter: PackedAdapter) -> None:
        """Let the slot, which stands for nothing, stand for the adapter."""

    def clear(self, slot: int) -> None:
        """Let the slot stand for nothing; no weights stay in memory of its own."""

    def settle(self) -> None:
        """Wait until nothing is being copied: then what was copied from may be overwritten."""

    def route(self, slot: NDArray[np.int32], weight: NDArray[np.float32], *, idle: bool = False) -> None:
        """Take over the routing table of a step: slot and weight [T, K].

        `idle`: no request of the step has adapters. vLLM then captures and runs graphs of their own, in which
        nothing of ours needs to be.
        """


class MakeSlots(Protocol):
    """Makes the slots of an engine, all of them standing for nothing."""

    def __call__(self, layers: Sequence[Shape], sizes: Sizes) -> Slots:
        """`layers`: every layer, in the order in which adapters are packed."""
