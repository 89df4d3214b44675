"""Which type to compute in on CPUs, for training and serving alike."""

from __future__ import annotations

from pathlib import Path

from vllm_mega.models.checkpoint import weight_dtype


def cpu_dtype(model: Path) -> str | None:
    """The type to compute in on this CPU where that of the checkpoint is a bad choice; None: its own.

    Without AVX-512 there are no fast products in bfloat16 on x86: in float32, 16 requests at once decode
    2.8 times and prompts are read 4.4 times as fast (SmolLM2-135M, 2 cores of an AMD Milan); a single
    request decodes a quarter slower, and the weights take twice the memory. Products in float16 are slow on
    all of them (training takes 15 times as long), and our kernels have none.

    Args:
        model: folder of the checkpoint.
    """
    import torch

    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        return "float32"
    return "bfloat16" if weight_dtype(model) == "float16" else None
