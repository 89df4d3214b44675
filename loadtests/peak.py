"""How fast this machine multiplies matrices: what the trainer's share is taken of."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import torch

CUBE = (2048, 2048, 2048)
TOKENS = (512, 2048, 8192)


class Product(msgspec.Struct, frozen=True):
    """x [M, K] @ W[N, K].T in one type; FLOPs are 2 M K N."""

    dtype: str
    shape: tuple[int, int, int]
    """M, K, N."""
    gflops: float
    """Of the fastest call."""


def shapes(path: Path) -> list[tuple[int, int, int]]:
    """M, K, N: what the model at `path` multiplies, for several numbers of tokens, and a cube."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path)
    hidden, inner = config.hidden_size, config.intermediate_size
    return [(t, *pair) for t in TOKENS for pair in ((hidden, inner), (inner, hidden))] + [CUBE]


def product(dtype: torch.dtype, shape: tuple[int, int, int], seconds: float) -> Product:
    """Multiply for `seconds`; the fastest call counts, since others may use the machine too."""
    m, k, n = shape
    g = torch.Generator().manual_seed(0)
    x, w = (torch.randn(rows, k, generator=g).to(dtype) for rows in (m, n))
    best, end, calls = float("inf"), time.perf_counter() + seconds, 0
    while time.perf_counter() < end or calls < 3:
        started = time.perf_counter()
        torch.nn.functional.linear(x, w)
        best, calls = min(best, time.perf_counter() - started), calls + 1
    return Product(str(dtype).removeprefix("torch."), shape, round(2e-9 * m * k * n / best, 1))


def products(path: Path, seconds: float = 0.5) -> list[Product]:
    """All shapes in bfloat16 and float32, `seconds` each."""
    return [product(dtype, s, seconds) for dtype in (torch.bfloat16, torch.float32) for s in shapes(path)]
