"""Which positions have a tag: lists that only grow, and are cleared of what is out of date now and then."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vllm_mega.gate.index.table import Slots


@dataclass
class _Posting:
    """Positions that were given the tag, each with the number of that putting; most are in force."""

    slots: array[int] = field(default_factory=lambda: array("q"))
    puts: array[int] = field(default_factory=lambda: array("q"))
    gone: int = 0
    """So many are not in force any more."""


class Tags:
    """Tags of the positions 0..N-1. A change costs what it changes. Not thread-safe."""

    def __init__(self) -> None:
        self._postings: dict[str, _Posting] = {}
        self._puts = array("q")
        """Of each position, the number of the last putting."""
        self._count = 0

    def put(self, slot: int, tags: Sequence[str]) -> None:
        """Give the position `slot`, that was dropped, these tags."""
        self.extend(slot, [tuple(tags)])

    def extend(self, start: int, tags: Sequence[tuple[str, ...]]) -> None:
        """Give `start` and those behind it, that were dropped or are the next new ones, these tags."""
        first = self._count + 1
        self._count += len(tags)
        self._puts[start : start + len(tags)] = array("q", range(first, first + len(tags)))
        alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for n, some in enumerate(tags):
            if some:
                alike[some].append(n)
        for some, places in alike.items():
            self._give(some, [start + n for n in places], [first + n for n in places])

    def _give(self, tags: Sequence[str], slots: list[int], puts: list[int]) -> None:
        """Each of the positions was given all of `tags` by the putting of this number."""
        for tag in dict.fromkeys(tags):
            posting = self._postings.get(tag)
            if posting is None:
                posting = self._postings[tag] = _Posting()
            posting.slots.extend(slots)
            posting.puts.extend(puts)

    def drop(self, slot: int, tags: Sequence[str]) -> None:
        """Take from the position `slot` all that it has: these tags."""
        self._puts[slot] = 0
        for tag in dict.fromkeys(tags):
            posting = self._postings[tag]
            posting.gone += 1
            if 2 * posting.gone >= len(posting.slots):
                self._clear(tag, posting)

    def having(self, tags: Sequence[str]) -> Slots:
        """Positions that have all of `tags`, of which there is at least one."""
        postings = [self._postings.get(tag, _Posting()) for tag in tags]
        fewest, *others = sorted(postings, key=lambda posting: len(posting.slots))
        found = self._alive(fewest)
        for other in others:
            has = np.zeros(len(self._puts), np.bool_)
            has[self._alive(other)] = True
            found = found[has[found]]
        return found

    def _alive(self, posting: _Posting) -> Slots:
        slots = _numbers(posting.slots)
        return np.asarray(slots[_numbers(self._puts)[slots] == _numbers(posting.puts)], np.intp)

    def _clear(self, tag: str, posting: _Posting) -> None:
        """Costs as much as the puttings and droppings since the last time."""
        pairs = [(s, p) for s, p in zip(posting.slots, posting.puts, strict=True) if self._puts[s] == p]
        if not pairs:
            del self._postings[tag]
            return
        slots, puts = zip(*pairs, strict=True)
        self._postings[tag] = _Posting(array("q", slots), array("q", puts))


def _numbers(values: array[int]) -> npt.NDArray[np.int64]:
    return np.frombuffer(values, np.int64) if values else np.zeros(0, np.int64)
