"""Lets an engine on a CPU do what it does on a GPU; in a process of its own, before vLLM is imported.

Kernels run under Triton's interpreter: TRITON_INTERPRET must be set.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any


def gpu_slots() -> None:
    """Adapters lie in the slots of a GPU, and its kernels compute with them."""
    from tests.engine.streams import Cuda
    from vllm_mega.engine.slots import device
    from vllm_mega.engine.slots.cuda import CudaSlots, transposed
    from vllm_mega.kernels import triton

    triton.LANES = 1  # the interpreter takes milliseconds for a program, however much it does
    triton.SHRINK_FLOAT32 = triton.EXPAND_FLOAT32 = triton.Tile(64, 64, 256, 4, 2)

    def kernels_for(where: Any, dtype: Any) -> device.Kernels:
        return device.Kernels(partial(CudaSlots, dtype=dtype, device=where, cuda=Cuda()), transposed)

    device.kernels_for = kernels_for


def second_runner() -> None:
    """vLLM's second model runner, CUDA's default, which needs Triton for its inputs and its sampler."""
    from triton.backends import backends

    backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)
    import_module("vllm.triton_utils")  # sees it; nobody else does
    del backends["cpu"]
    # Warms up with what happens to lie in memory: NaN at times, of which the interpreter finds no largest.
    runner = import_module("vllm.v1.worker.gpu.model_runner").GPUModelRunner
    runner._dummy_sampler_run = lambda *_: None


STAND_INS = {"slots": gpu_slots, "runner": second_runner}
