"""Vectors in memory, each of which may change: [N, D] in blocks, so that a new one moves no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from vllm_mega.gate.index.halves import Half, join, split
from vllm_mega.gate.vectors import Vectors
from vllm_mega.models.dtype import computes_bfloat16

BLOCK = 65_536
"""Vectors of a block."""
_FIRST = 64
"""Room of a new table; grows twofold up to a block."""
_STEP = 1024
"""A scan reads so many vectors at a time, the last of them empty: oneDNN compiles for every other number."""
_ROUNDED = 1.01 * 2.0**-8
"""What bfloat16 takes from a number at most, as a part of it, and a little more for what is rounded twice."""
_PIECE = 1024
"""Vectors that are taken at once where all of them would not stay in the cache."""

Slots = npt.NDArray[np.intp]
"""Positions in a table."""


class _Block(NamedTuple):
    upper: Half
    lower: Half


class Table:
    """Float32 vectors [N, D] at positions 0..N-1. Not thread-safe."""

    def __init__(self, dim: int) -> None:
        """Empty; `dim` is D."""
        self._dim = dim
        self._blocks: list[_Block] = []
        self._dtype = torch.bfloat16 if computes_bfloat16() else torch.float32
        self._length = 0.0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def write(self, slot: int, vectors: Vectors) -> None:
        """Put `vectors` [n, D] at `slot` and the positions behind; the table grows as it must."""
        self._grow(slot + len(vectors))
        self._length = max(self._length, _longest(vectors))
        while len(vectors):
            block, at = self._blocks[slot // BLOCK], slot % BLOCK
            part = vectors[: min(_PIECE, BLOCK - at)]
            split(part, block.upper[at : at + len(part)], block.lower[at : at + len(part)])
            vectors, slot = vectors[len(part) :], slot + len(part)

    def drop_last(self, hole: int) -> None:
        """Let the last vector take the place of the one at `hole`; the table is one shorter."""
        last = self._size - 1
        source, target = self._blocks[last // BLOCK], self._blocks[hole // BLOCK]
        for half in range(2):
            target[half][hole % BLOCK] = source[half][last % BLOCK]
            source[half][last % BLOCK] = 0
        self._size = last
        del self._blocks[-(-last // BLOCK) :]

    def take(self, slots: Slots) -> Vectors:
        """The vectors at these positions, exactly: float32 [n, D]."""
        found = np.empty((len(slots), self._dim), np.float32)
        for n, mine in self._by_block(slots):
            at = slots[mine] - n * BLOCK
            found[mine] = join(self._blocks[n].upper[at], self._blocks[n].lower[at])
        return found

    def scan(self, queries: Vectors) -> torch.Tensor:
        """The product of every vector with every query [P, D], nearly: [P, N]; see `error`."""
        padded = np.zeros((1 << (len(queries) - 1).bit_length(), self._dim), np.float32)
        padded[: len(queries)] = queries
        with torch.inference_mode():
            asked = torch.from_numpy(padded).to(self._dtype)
            found = torch.empty((len(queries), self._size), dtype=self._dtype)
            for start, keys in self._pieces():
                end = min(start + len(keys), self._size)
                products = asked @ keys.to(self._dtype).T
                found[:, start:end] = products[: len(queries), : end - start]
        return found

    def error(self, queries: Vectors) -> float:
        """How far `scan` is at most from the exact products: each of key, query and result was rounded.

        By the inequality of Cauchy and Schwarz; the same however many are asked at once.
        """
        return (3 * _ROUNDED + self._dim * 2.0**-22) * self._length * _longest(queries)

    def _grow(self, size: int) -> None:
        self._size = max(self._size, size)
        while len(self._blocks) * BLOCK < size:
            self._blocks.append(_empty(BLOCK if self._blocks else _FIRST, self._dim))
        first = self._blocks[0] if self._blocks else None
        if first and len(first.upper) < min(size, BLOCK):
            room = max(2 * len(first.upper), 1 << (min(size, BLOCK) - 1).bit_length())
            self._blocks[0] = _Block(*(_larger(half, room) for half in first))

    def _by_block(self, slots: Slots) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
        """(number of a block, which of `slots` are in it)"""
        blocks = slots // BLOCK
        for n in np.unique(blocks):
            yield int(n), np.flatnonzero(blocks == n)

    def _pieces(self) -> Iterator[tuple[int, torch.Tensor]]:
        """(first position, upper halves as bfloat16 [n, D]); the last piece may reach beyond the end."""
        step = BLOCK if self._dtype == torch.bfloat16 else _PIECE
        for n, block in enumerate(self._blocks):
            used = -(-(self._size - n * BLOCK) // _STEP) * _STEP
            keys = torch.from_numpy(block.upper[:used]).view(torch.bfloat16)
            for start in range(0, len(keys), step):
                yield n * BLOCK + start, keys[start : start + step]


def _empty(rows: int, dim: int) -> _Block:
    """Zeros: for large arrays that are not, numpy asks for huge pages, and waits until there are some."""
    return _Block(np.zeros((rows, dim), np.int16), np.zeros((rows, dim), np.int16))


def _larger(half: Half, rows: int) -> Half:
    made = np.zeros((rows, half.shape[1]), np.int16)
    made[: len(half)] = half
    return made


def _longest(vectors: Vectors) -> float:
    """The greatest length of the rows; 0: there are none."""
    return float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max(initial=0.0)))
