"""The plan of a step that the Triton kernels read: which adapters a block of adjacent tokens uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

BLOCK = 64
"""Tokens of a block: block n is tokens [64 n, 64 n + 64)."""
UNIT = 16
"""Rows of a unit: an adapter's rank falls into so many of them. What a tensor core adds up at once."""
SPLITS = 16
"""Into how many parts the shrink kernel may cut the input features of one block."""
RECORD = 1 + BLOCK
"""Numbers of a unit in the plan."""
_SLOT = 1 << 16  # a unit's first number is `slot * _SLOT + chunk`


def chunks(rank: int) -> int:
    """Units of an adapter whose largest rank is `rank`."""
    return -(-rank // UNIT)


@dataclass(frozen=True)
class Sizes:
    """What a plan has room for."""

    tokens: int
    """Most tokens of a step."""
    slots: int
    """S."""
    rank: int
    """Largest rank."""
    slices: int
    """Most output slices of a layer."""
    requests: int | None = None
    """Most requests of a step, each of adjacent tokens with one mixture, if that is known."""
    width: int | None = None
    """Most adapters of a mixture, if that is known."""

    @property
    def blocks(self) -> int:
        """Most blocks of a step."""
        return -(-self.tokens // BLOCK)

    def units(self, blocks: int) -> int:
        """Most units that so many blocks have together.

        A request that lies in m blocks is named m times, so blocks name requests less than blocks + requests
        times.
        """
        width = min(self.width or self.slots, self.slots)
        requests = self.tokens if self.requests is None else self.requests
        named = min(blocks * self.slots, (blocks + requests) * width)
        return named * chunks(self.rank)

    def numbers(self, blocks: int) -> int:
        """Numbers of one shrunk input of so many blocks: [BLOCK, slices, UNIT] for each unit."""
        return self.units(blocks) * BLOCK * self.slices * UNIT


class Plan:
    """The routing of one step, in buffers that stay where they are: CUDA graphs may hold their addresses.

    `starts` int32 [blocks + 1]: block n has the units `starts[n]` to `starts[n + 1]`; blocks behind the step
    have none. `records` int32 [units, RECORD]: a unit's slot and chunk (rows 16 chunk to 16 chunk + 16 of
    that slot's adapter) as `slot << 16 | chunk`, then the bits of the float32 weight that each of the
    block's tokens gives it. Weight 0: the token does not use it. Both lie in one buffer, which a step's
    routing reaches in one copy.

    Scratch of one layer's call: `hidden` of `dtype`, `parts` float32 and `counters` int32, which are zero
    between calls. `hidden` takes 4 bytes for each of `sizes.numbers(sizes.blocks)`, the largest part: 50 MB
    for 8,192 tokens, 32 slots of rank 16 and 3 slices, and 19 MB if at most 256 requests use at most 4
    adapters each. `parts` takes 64 bytes for each of `sizes.numbers(1)`: 6 MB.
    """

    def __init__(self, sizes: Sizes, dtype: torch.dtype, device: torch.device | str) -> None:
        """Buffers for steps of these sizes, and for activations of `dtype`."""
        self.sizes = sizes
        device = torch.device(device)
        head = -(-(sizes.blocks + 1) // 4) * 4  # records begin at a multiple of 16 bytes
        self._buffer = torch.zeros(
            head + sizes.units(sizes.blocks) * RECORD, dtype=torch.int32, device=device
        )
        self.starts, self.records = self._buffer[: sizes.blocks + 1], self._buffer[head:].view(-1, RECORD)
        planes = 1 if dtype == torch.float32 else 2
        self.hidden = torch.zeros(planes * sizes.numbers(sizes.blocks), dtype=dtype, device=device)
        self.parts = torch.zeros(SPLITS * sizes.numbers(1), device=device)
        counters = SPLITS * sizes.numbers(1) // UNIT**2
        self.counters = torch.zeros(counters, dtype=torch.int32, device=device)
        self.live = torch.ones(1, dtype=torch.bool)
        """On the host: whether there is anything to launch."""
        self._staging = [_Staging(self._buffer, head) for _ in range(2)]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """What the kernels are given."""
        return [self.starts, self.records, self.hidden, self.parts, self.counters, self.live]

    def update(
        self,
        slot: NDArray[np.int32],
        weight: NDArray[np.float32],
        chunks: NDArray[np.int32],
        *,
        idle: bool = False,
    ) -> None:
        """Take over the routing table of a step. Pairs of weight 0 count as null.

        Args:
            slot: [T, K]; negative means the null slot.
            weight: [T, K].
            chunks: [S] units of each slot's adapter: `chunks` of its largest rank.
            idle: nothing shall be launched from here on, nor captured.

        Raises:
            ValueError: the step does not fit the buffers.
        """
        starts, units, weights = step_units(slot, weight, chunks)
        most, found = self.sizes.units(self.sizes.blocks), len(units)
        if slot.shape != weight.shape or len(slot) > self.sizes.tokens or found > most:
            raise ValueError(
                f"slots {slot.shape} and weights {weight.shape}, {found} units of {UNIT} ranks, do not fit a "
                f"plan of {self.sizes.tokens} tokens and {most} units"
            )
        self.live[0] = not idle
        self._staging.reverse()  # a copy of the step before may still be under way
        self._staging[0].send(starts, units, weights)


class _Staging:
    """Host memory that a step's routing is written to, and copied from without waiting."""

    def __init__(self, buffer: torch.Tensor, head: int) -> None:
        cuda = buffer.device.type == "cuda"
        self._target = buffer
        self._host = torch.zeros(buffer.numel(), dtype=torch.int32, pin_memory=cuda)
        self._copied: Any = torch.cuda.Event() if cuda else None  # type: ignore[no-untyped-call]
        numbers = self._host.numpy()
        self._starts, self._records = numbers[:head], numbers[head:].reshape(-1, RECORD)

    def send(self, starts: NDArray[Any], units: NDArray[Any], weights: NDArray[np.float32]) -> None:
        """Copy a step's routing (see `step_units`), once the copy before last is through."""
        if self._copied is not None:
            self._copied.synchronize()
        self._starts[: len(starts)] = starts
        self._starts[len(starts) :] = starts[-1]
        self._records[: len(units), 0] = units
        self._records[: len(units), 1:] = weights.view(np.int32)
        used = len(self._starts) + len(units) * RECORD
        self._target[:used].copy_(self._host[:used], non_blocking=True)
        if self._copied is not None:
            self._copied.record()


def step_units(
    slot: NDArray[np.int32], weight: NDArray[np.float32], chunks: NDArray[np.int32]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float32]]:
    """A step's `Plan.starts` [blocks + 1], units [U] and their tokens' weights [U, BLOCK].

    Args:
        slot: [T, K]; negative means the null slot.
        weight: [T, K].
        chunks: [S].
    """
    blocks, slots = -(-len(slot) // BLOCK), len(chunks)
    token, k = np.nonzero((slot >= 0) & (weight != 0))
    place = token // BLOCK * slots + slot[token, k]  # of a slot in a block
    used = np.zeros(blocks * slots, bool)
    used[place] = True
    adapter = np.cumsum(used)[place] - 1
    found = np.flatnonzero(used)  # places of the blocks' adapters
    cells = np.bincount(adapter * BLOCK + token % BLOCK, weight[token, k], len(found) * BLOCK)
    counts = chunks[found % slots]
    first = np.cumsum(counts) - counts
    starts = np.zeros(blocks + 1, np.int64)
    starts[1:] = np.cumsum(np.bincount(found // slots, counts, blocks))
    units = np.repeat(found % slots * _SLOT - first, counts) + np.arange(counts.sum())
    weights = cells.astype(np.float32).reshape(-1, BLOCK)
    return starts, units, np.repeat(weights, counts, axis=0)
