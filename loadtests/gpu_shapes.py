"""Adapters of a whole model in slots, and steps that use them: what `loadtests.gpu` checks and times.

Every layer has weights and rows of its own, so that a step finds none of them in a cache, as in a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from loadtests.roofline_data import Linear, Load

Routing = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Slot and weight, [T, K] each."""


def routing(load: Load, adapters: int, width: int, seed: int = 0) -> Routing:
    """Every request gets `width` adapters of its own choice. Pure.

    They are dealt from shuffled decks of all adapters, so that a step uses as many as it can. Weights are
    multiples of 1/64 between 1/64 and 1.
    """
    draw = np.random.default_rng(seed)
    hands = adapters // width
    decks = [draw.permutation(adapters)[: hands * width] for _ in range(-(-load.requests // hands))]
    slot = np.concatenate(decks).reshape(-1, width)[: load.requests]
    weight = draw.integers(1, 65, slot.shape) / 64
    return (
        np.repeat(slot, load.each, axis=0).astype(np.int32),
        np.repeat(weight, load.each, axis=0).astype(np.float32),
    )


class Adapters(NamedTuple):
    """All adapters on one linear layer, by slice."""

    linear: Linear
    ranks: NDArray[np.int64]
    """[S, P]: rows that count; NaN stands in those behind."""
    a: list[torch.Tensor]
    """[S, R, I] each."""
    b: list[torch.Tensor]
    """[S, R, O] each."""

    def flipped(self) -> list[torch.Tensor]:
        """B as vLLM has it: [S, O, R] each."""
        return [b.transpose(1, 2).contiguous() for b in self.b]


def adapters_of(linear: Linear, ranks: Sequence[int], dtype: torch.dtype, device: str) -> Adapters:
    """Random ones, of one rank in all slices, which leave rows in the order of magnitude that they have."""
    size = (len(ranks), max(ranks))

    def random(columns: int, std: float) -> torch.Tensor:
        made = torch.empty(*size, columns, dtype=dtype, device=device).normal_(std=std)
        for slot, rank in enumerate(ranks):
            if rank < max(ranks):
                made[slot, rank:] = torch.nan
        return made

    return Adapters(
        linear,
        np.repeat(np.array(ranks)[:, None], len(linear.outs), axis=1),
        [random(linear.inputs, linear.inputs**-0.5) for _ in linear.outs],
        [random(out, max(ranks) ** -0.5) for out in linear.outs],
    )


class Rows(NamedTuple):
    """Input and output of a linear layer."""

    x: torch.Tensor
    """[T, I]."""
    y: torch.Tensor
    """[T, O]."""


def rows_of(linear: Linear, tokens: int, dtype: torch.dtype, device: str) -> Rows:
    """Random inputs and outputs of a linear layer for so many tokens."""
    sizes = (linear.inputs, sum(linear.outs))
    return Rows(*(torch.empty(tokens, size, dtype=dtype, device=device).normal_() for size in sizes))
