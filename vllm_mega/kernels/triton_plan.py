"""The plan of a step that the Triton kernels read: blocks of adjacent tokens with the same mixture."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

BLOCK = 32
"""Most tokens of a block. Tensor cores want at least 16."""
SHRINKS = 256
"""Programs below which the shrink kernel splits the input features; part of the scratch buffer's size."""
_HEAD = 3  # numbers of a block before its slots: first token, tokens, pairs


class Plan:
    """The routing of one step, in buffers that stay where they are.

    `blocks` int32 [T_max + 1, 3 + K_max]: `blocks[0, 0]` is the number of blocks; row n + 1 is block n: its
    first token, its number of tokens, its number of pairs, and their slots.
    `weights` float32 [T_max, K_max]: the weights of block n's pairs.
    `hidden` float32 [rows, V]: scratch; V holds the ranks of K_max adapters.
    """

    def __init__(
        self, max_tokens: int, max_width: int, max_rank: int, slices: int, device: torch.device | str
    ) -> None:
        """Buffers for `max_tokens` tokens of at most `max_width` pairs, for layers of at most `slices`."""
        self.max_rank = max_rank
        self.blocks = torch.zeros(max_tokens + 1, _HEAD + max_width, dtype=torch.int32, device=device)
        self.weights = torch.zeros(max_tokens, max_width, device=device)
        v = -(-max_width * max_rank // 16) * 16  # rows that start at multiples of 64 bytes
        self.hidden = torch.zeros(max(max_tokens * slices, SHRINKS), v, device=device)

    def update(self, slot: NDArray[np.int32], weight: NDArray[np.float32]) -> None:
        """Take over the routing table of a step. Pairs of weight 0 count as null.

        Args:
            slot: [T, K]; negative means the null slot.
            weight: [T, K].

        Raises:
            ValueError: the step does not fit the buffers.
        """
        most = tuple(self.weights.shape)
        if slot.shape != weight.shape or slot.shape[0] > most[0] or slot.shape[1] > most[1]:
            raise ValueError(f"slots {slot.shape} and weights {weight.shape} do not fit a plan of {most}")
        blocks, weights = plan_blocks(slot, weight, most[1])
        # From pageable memory: copied before the call returns, so that nothing has to wait for the device.
        self.weights[: len(weights)].copy_(torch.from_numpy(weights), non_blocking=True)
        self.blocks[: len(blocks)].copy_(torch.from_numpy(blocks), non_blocking=True)


def plan_blocks(
    slot: NDArray[np.int32], weight: NDArray[np.float32], max_width: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """`Plan.blocks` and `Plan.weights`, for N blocks: [N + 1, 3 + max_width], [N, max_width].

    Args:
        slot: [T, K]; negative means the null slot.
        weight: [T, K].
        max_width: at least K.
    """
    tokens, width = slot.shape
    used = (slot >= 0) & (weight != 0)
    front = np.argsort(~used, axis=1, kind="stable")  # pairs that count come first, in their order
    slot = np.take_along_axis(np.where(used, slot, -1), front, axis=1)
    weight = np.take_along_axis(np.where(used, weight, 0), front, axis=1)
    pairs = used.sum(axis=1)

    same = (slot[1:] == slot[:-1]).all(axis=1) & (weight[1:] == weight[:-1]).all(axis=1)
    begins = np.flatnonzero(np.concatenate(([True], ~same)) if tokens else [])  # of runs of one mixture
    lengths = np.diff(begins, append=tokens)
    position = np.arange(tokens) - np.repeat(begins, lengths)
    left = np.repeat(lengths, lengths) - position
    first = np.flatnonzero((position % BLOCK == 0) & (pairs > 0))

    blocks = np.full((len(first) + 1, _HEAD + max_width), -1, dtype=np.int32)
    weights = np.zeros((len(first), max_width), dtype=np.float32)
    blocks[0, 0] = len(first)
    blocks[1:, 0], blocks[1:, 1], blocks[1:, 2] = first, np.minimum(left[first], BLOCK), pairs[first]
    blocks[1:, _HEAD : _HEAD + width] = slot[first]
    weights[:, :width] = weight[first]
    return blocks, weights
