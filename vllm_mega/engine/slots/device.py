"""Which kernels an engine uses: the C++ one on CPUs, Triton's on CUDA."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from vllm_mega.engine.slots.base import MakeSlots
from vllm_mega.engine.slots.cpu import CpuSlots
from vllm_mega.engine.slots.packed import Layout
from vllm_mega.errors import ConfigError
from vllm_mega.kernels import cpu, native


@dataclass(frozen=True)
class Kernels:
    """The parts of the engine that depend on the device."""

    slots: MakeSlots
    layout: Layout
    """From lora_A and lora_B to what the kernels read."""
    pin_memory: bool = False
    """Whether packed adapters wait in pinned memory: copies from there need not wait."""


def kernels_for(device: torch.device, dtype: torch.dtype) -> Kernels:
    """The kernels for a device, ready to be called.

    Raises:
        ConfigError: there are none for it, or not for this type.
        KernelError: see `native.functions`.
    """
    if device.type == "cuda":
        from vllm_mega.engine.slots.cuda import CudaSlots, transposed
        from vllm_mega.kernels import triton

        _check(dtype, triton.DTYPES)
        return Kernels(partial(CudaSlots, dtype=dtype, device=device), transposed, pin_memory=True)
    if device.type != "cpu":
        raise ConfigError(
            f"vllm_mega has no kernels for {device.type!r}: run on a CPU or with CUDA, "
            "or without vllm_mega's settings in --additional-config"
        )
    _check(dtype, cpu.DTYPES)
    native.functions()  # compiles now, not in the first request
    return Kernels(CpuSlots, cpu.layout)


def _check(dtype: torch.dtype, known: tuple[torch.dtype, ...]) -> None:
    if dtype not in known:
        names = [str(one).removeprefix("torch.") for one in known]
        raise ConfigError(
            f"mixtures are computed in {' or '.join(names)}, not {dtype}: start the engine with "
            + " or ".join(f"--dtype {name}" for name in names)
        )
