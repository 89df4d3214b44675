"""Which type to compute in on CPUs, for training and serving alike."""

from __future__ import annotations

from pathlib import Path

from vllm_mega.models.checkpoint import weight_dtype


def cpu_dtype(model: Path) -> str | None:
    """The type to compute in on this CPU where that of the checkpoint is a bad choice; None: its own.

    Only instructions for bfloat16 (AVX-512 BF16) make products in it fast on x86. Without AVX-512, 16
    requests at once decode 2.8 times and prompts are read 4.4 times as fast in float32 (SmolLM2-135M, 2 cores
    of an AMD Milan), though a single request decodes a quarter slower, and the weights take twice the memory.
    With AVX-512 but not these instructions a product is five times as fast (docs/training-log.md). Products
    in float16 are slow on all of them (training takes 15 times as long), and our kernels have none.

    Args:
        model: folder of the checkpoint.
    """
    if not computes_bfloat16():
        return "float32"
    return "bfloat16" if weight_dtype(model) == "float16" else None


def computes_bfloat16() -> bool:
    """Whether this CPU has instructions for products in bfloat16, as far as that makes a difference."""
    import torch

    has = torch.cpu.get_capabilities()
    return has["architecture"] != "x86_64" or bool(has.get("avx512_bf16", False))
