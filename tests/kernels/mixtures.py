"""Layers with adapters in slots, steps that use them, what the reference says: for tests of the GPU kernels.

On a machine with a GPU everything lies there, and the kernels are compiled; elsewhere Triton interprets them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vllm_mega.engine.routing import NULL_SLOT
from vllm_mega.kernels import reference, triton_plan
from vllm_mega.kernels import triton as kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class Layer:
    """Random weights in slots. `pairs[s][p]`: (A [rank, I], B [rank, O_p]), or None."""

    pairs: list[list[tuple[torch.Tensor, torch.Tensor] | None]]
    inputs: int
    outs: tuple[int, ...]
    max_rank: int
    dtype: torch.dtype = torch.float32
    device: str = DEVICE

    @property
    def table(self) -> torch.Tensor:
        rows = [[kernels.entry(*p, self.max_rank) if p else (0, 0, 0) for p in slot] for slot in self.pairs]
        return torch.tensor(rows, dtype=torch.int64, device=self.device)

    @property
    def chunks(self) -> np.ndarray:
        ranks = [max(p[0].shape[0] if p else 0 for p in slot) for slot in self.pairs]
        return np.array([triton_plan.chunks(rank) for rank in ranks], dtype=np.int32)

    def tensors(self, rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """y [rows, sum of outs], x [rows, I]."""
        g = torch.Generator().manual_seed(seed)
        shapes = (rows, sum(self.outs)), (rows, self.inputs)
        y, x = (torch.randn(shape, generator=g).to(self.device, self.dtype) for shape in shapes)
        return y, x

    def expected(
        self, y: torch.Tensor, x: torch.Tensor, slot: np.ndarray, weight: np.ndarray
    ) -> torch.Tensor:
        """What the definition says, in float32; rows behind the table's are unchanged."""
        T, parts = len(slot), []
        for p, columns in enumerate(y.float().split(self.outs, dim=1)):
            part, rank = columns.clone(), self.max_rank
            a = torch.zeros(len(self.pairs), rank, self.inputs, device=self.device)
            b = torch.zeros(len(self.pairs), part.shape[1], rank, device=self.device)
            for s, slices in enumerate(self.pairs):
                if slices[p] is not None:
                    r = slices[p][0].shape[0]
                    a[s, :r], b[s, :, :r] = slices[p][0], slices[p][1].T
            part[:T] = reference.add_mixture(
                part[:T], x[:T], a, b, torch.from_numpy(slot), torch.from_numpy(weight)
            )
            parts.append(part)
        return torch.cat(parts, dim=1)


def layer_of(ranks, inputs, outs, *, max_rank=16, dtype=torch.float32, device=DEVICE, seed=0) -> Layer:
    """`ranks[s]` is the rank of slot s in all slices, or one for each slice."""
    g = torch.Generator().manual_seed(seed)

    def pair(rank, out):
        a = torch.randn(rank, inputs, generator=g) / inputs**0.5
        b = torch.randn(rank, out, generator=g) / max(rank, 1) ** 0.5
        return (a.to(device, dtype), b.to(device, dtype)) if rank else None

    rows = [[r] * len(outs) if isinstance(r, int) else r for r in ranks]
    pairs = [[pair(r, o) for r, o in zip(row, outs, strict=True)] for row in rows]
    return Layer(pairs, inputs, outs, max_rank, dtype, device)


def routing(kind: str, tokens: int, width: int, slots: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """slot [T, K], weight [T, K] of one kind of step."""
    rng = np.random.default_rng(seed)
    if kind == "decode":  # every token a different mixture, every third none
        lengths = [1] * tokens
    elif kind == "prefill":
        lengths = [tokens]
    else:  # mixed
        lengths = [1, 1, tokens // 2, 1, tokens - tokens // 2 - 3]
    slot = np.stack([rng.permutation(max(slots, width))[:width] for _ in lengths])
    slot[slot >= slots] = NULL_SLOT
    slot[rng.random(slot.shape) < 0.2] = NULL_SLOT  # holes, anywhere in the row
    slot[2::3] = NULL_SLOT
    weight = rng.integers(-64, 65, slot.shape) / 64
    return (
        np.repeat(slot, lengths, axis=0).astype(np.int32),
        np.repeat(weight, lengths, axis=0).astype(np.float32),
    )


def plan_of(layer: Layer, tokens: int) -> triton_plan.Plan:
    sizes = triton_plan.Sizes(tokens, len(layer.pairs), layer.max_rank, len(layer.outs))
    return triton_plan.Plan(sizes, layer.dtype, layer.device)


def run(layer, y, x, slot, weight, plan=None):
    plan = plan or plan_of(layer, x.shape[0])
    plan.update(slot, weight, layer.chunks)
    out = y.clone()
    kernels.add_mixture(out, x, layer.table, layer.outs, plan)
    return out


def check(layer: Layer, slot: np.ndarray, weight: np.ndarray, *, rows: int = 0, plan=None, tolerance=1e-5):
    """One step against the definition; `rows` more rows than the table has."""
    y, x = layer.tensors(len(slot) + rows)
    out = run(layer, y, x, slot, weight, plan)
    want = layer.expected(y, x, slot, weight)
    assert (out.float() - want).norm() <= tolerance * want.norm()
    assert (out.float() - want).abs().max() <= 8 * tolerance * want.abs().max()
    null = np.ones(len(y), dtype=bool)
    null[: len(slot)] = ~((slot >= 0) & (weight != 0)).any(axis=1)
    assert torch.equal(out[null].view(torch.uint8), y[null].view(torch.uint8)), "bit for bit"
    return out
