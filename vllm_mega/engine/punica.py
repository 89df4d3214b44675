"""The punica wrapper: where vLLM's LoRA layers hand over to our kernels.

vLLM's layers call `add_lora_linear` with their stacked weights; this wrapper adds the step's
mixtures. It replaces the CPU path of vLLM 0.32 altogether, which reads slot -1 ("no adapter") as
the last slot (vllm-project/vllm #48421, #49656).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase

from vllm_mega.engine.routing import dense_weights
from vllm_mega.kernels import cpu as _registers_the_operator  # noqa: F401


class MegaPunicaWrapperCPU(PunicaWrapperBase):  # type: ignore[misc]  # vLLM is untyped to mypy
    """Adds mixtures on the CPU; state is the routing of the current step, in persistent buffers."""

    def __init__(
        self,
        max_num_batched_tokens: int,
        max_batches: int,
        device: torch.device,
        slots: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device)
        self.slots = slots
        self.weight = torch.zeros(max_num_batched_tokens, slots, dtype=dtype)
        """[T_max, S]; weights are multiples of 1/64 up to 4, hence exact in bfloat16."""
        self.used = torch.zeros(1 + slots, dtype=torch.int64)
        """[1 + S]: how many slots have a weight in this step, then which."""
        self._rows = 0

    def set_routing(self, slot: NDArray[np.int32], weight: NDArray[np.float32]) -> None:
        """Take over the routing table of a step (slot and weight: [T, K])."""
        dense = dense_weights(slot, weight, self.slots)
        rows = dense.shape[0]
        self.weight[:rows].copy_(torch.from_numpy(dense))
        if rows < self._rows:
            self.weight[rows : self._rows].zero_()
        self._rows = rows
        used = np.flatnonzero(dense.any(axis=0))
        self.used[0] = len(used)
        self.used[1 : 1 + len(used)] = torch.from_numpy(used)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        *_: Any,
        **__: Any,
    ) -> None:
        """See `kernels.cpu.add_mixture`; the rest is vLLM's scale, always 1, and sizes that `b` knows."""
        torch.ops.vllm_mega.add_mixture(y, x, lora_a_stacked, lora_b_stacked, self.weight, self.used)

    def _refuse(self, *_: Any, **__: Any) -> None:
        raise AssertionError("the manager gives slots to linear layers only")

    add_shrink = _refuse
    add_expand = _refuse
    add_lora_embedding = _refuse
    add_lora_logits = _refuse
    apply_lora_full_linear = _refuse
