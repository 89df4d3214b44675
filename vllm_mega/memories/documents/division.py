"""Dividing a row of units into pieces that are neither long nor short. Pure.

Borders are chosen by what stands beside them, never by counting from the beginning: of all the best borders
of a row (see `Border`) that one divides it whose neighbours have the greatest digest, and then each half is
divided likewise. So where a sentence comes or goes, the other pieces stay what they were, and so do the
memories that have been trained on them. Splitters that fill one piece after the other move every border
behind a change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vllm_mega.errors import ConfigError
from vllm_mega.memories.documents.units import Unit

_LEAST = 5
"""A piece has a fifth of the most tokens, if it can."""
FEWEST_TOKENS, MOST_ASKED = 16, 1024
"""Of what may be asked for."""
MOST_TOKENS = 128
"""A text of so many is recited, answered from, and read by the embedder at once (docs/documents.md)."""


class Size(NamedTuple):
    """How long a memory of a document is, in tokens of the base model."""

    most: int = MOST_TOKENS

    @classmethod
    def of(cls, most: int) -> Size:
        """With at most so many tokens.

        Raises:
            ConfigError: a number out of range.
        """
        if not FEWEST_TOKENS <= most <= MOST_ASKED:
            raise ConfigError(f"a memory has at most {FEWEST_TOKENS} to {MOST_ASKED} tokens, not {most}")
        return cls(most)

    @property
    def least(self) -> int:
        """Fewer only where there is no more to be had."""
        return self.most // _LEAST


def divide(units: Sequence[Unit], tokens: Sequence[int], size: Size) -> list[range]:
    """The pieces of a row of units, each with at most `size.most` tokens, or one unit.

    Args:
        units: N of them.
        tokens: how many each has.
        size: of the pieces.
    """
    ends = np.concatenate([[0], np.cumsum(np.asarray(tokens, np.int64))])
    ranks = _ranks(units)
    pieces, todo = [], [range(len(units))]
    while todo:
        row = todo.pop()
        if len(row) <= 1 or ends[row.stop] - ends[row.start] <= size.most:
            pieces.append(row)
            continue
        at = _border(ends, ranks, row, size.least)
        todo += [range(at, row.stop), range(row.start, at)]
    return [piece for piece in pieces if piece]


def _border(ends: npt.NDArray[np.int64], ranks: npt.NDArray[np.int64], row: range, least: int) -> int:
    """The unit before which `row` is divided: at least so many tokens on both sides, or the most central."""
    first = int(np.searchsorted(ends, ends[row.start] + least))
    last = int(np.searchsorted(ends, ends[row.stop] - least, side="right")) - 1
    if first > last:
        middle = (ends[row.start] + ends[row.stop]) / 2
        return row.start + 1 + int(np.argmin(np.abs(ends[row.start + 1 : row.stop] - middle)))
    inside = ranks[first : last + 1]
    best = np.flatnonzero(inside == inside.max())
    return first + int(best[len(best) // 2])  # equal ones have equal neighbours: a row of the same again


def _ranks(units: Sequence[Unit]) -> npt.NDArray[np.int64]:
    """How good the border before each unit is, [N]."""
    before = ["", *(unit.text for unit in units)]
    return np.array([_rank(left, unit) for left, unit in zip(before, units, strict=False)], np.int64)


def _rank(left: str, unit: Unit) -> int:
    digest = hashlib.sha256(f"{left}\0{unit.text}".encode()).digest()
    return int(unit.border) << 60 | int.from_bytes(digest[:7], "big")
