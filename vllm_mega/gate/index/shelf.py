"""The memories of one namespace that have a key, searched exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest

import numpy as np
import torch

from vllm_mega.bank.catalog.records import Row
from vllm_mega.gate.index.search import candidates
from vllm_mega.gate.index.table import Slots, Table
from vllm_mega.gate.index.tags import Tags
from vllm_mega.gate.selection import Scores, best_of, ranking
from vllm_mega.gate.vectors import Vectors

_TOGETHER = 64
"""Passages that are scanned at once: more need more room and save nothing."""
_FEW = 32
"""Where at most one of so many has the tags, those alone are compared: to gather keys costs more than to pass
over them."""


@dataclass(frozen=True)
class Asked:
    """What is looked for."""

    namespace: str
    passages: Vectors
    """[W, D]; a score is that with the best of them."""
    count: int
    """So many are wanted, at most; at least 1."""
    tags: tuple[str, ...] = ()
    """Only memories that have all of these."""


@dataclass(frozen=True)
class Found:
    """Memories with their scores."""

    rows: Sequence[Row]
    scores: Scores
    """[n], exact."""
    keys: Vectors
    """[n, D]"""


class Shelf:
    """Rows and keys by id. Not thread-safe."""

    def __init__(self, dim: int) -> None:
        """Empty; `dim` is D."""
        self._rows: list[Row] = []
        self._slots: dict[str, int] = {}
        self._table = Table(dim)
        self._tags = Tags()

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, rows: Sequence[Row], keys: Vectors) -> None:
        """Take keys [n, D], each in place of what its memory had; no memory twice."""
        if self._slots.keys().isdisjoint([row.id for row in rows]):
            self._append(rows, keys)
            return
        known = np.array([row.id in self._slots for row in rows], bool)
        for n in np.flatnonzero(known):
            self._replace(rows[n], keys[n : n + 1])
        self._append([rows[n] for n in np.flatnonzero(~known)], keys[~known])

    def drop(self, memory_id: str) -> None:
        """Forget a memory, if it is here; the last one takes its place."""
        hole = self._slots.pop(memory_id, None)
        if hole is None:
            return
        last = self._rows.pop()
        self._tags.drop(len(self._rows), last.tags)
        self._table.drop_last(hole)
        if hole < len(self._rows):
            self._tags.drop(hole, self._rows[hole].tags)
            self._set(hole, last)

    def get(self, ids: Sequence[str], asked: Asked) -> Found:
        """Those of these ids that are here and have the tags, in this order."""
        slots = [self._slots[one] for one in ids if one in self._slots]
        slots = [slot for slot in slots if set(asked.tags) <= set(self._rows[slot].tags)]
        keys = self._table.take(np.array(slots, np.intp))
        return Found([self._rows[slot] for slot in slots], best_of(keys, asked.passages), keys)

    def count(self, tags: Sequence[str]) -> int:
        """How many have all of `tags`."""
        return len(self._tags.having(tags)) if tags else len(self)

    def search(self, asked: Sequence[Asked]) -> list[Found]:
        """The best for each, of equal ones the smaller id first; one gets the same alone and among others."""
        among = [self._tags.having(one.tags) if one.tags else None for one in asked]
        slots: list[Slots | None] = [self._shortlist(*each) for each in zip(asked, among, strict=True)]
        open_ones = [n for n, found in enumerate(slots) if found is None]
        for group in _groups(open_ones, [len(asked[n].passages) for n in open_ones]):
            for n, scores in zip(group, self._scan([asked[n].passages for n in group]), strict=True):
                slots[n] = self._nearest(asked[n], among[n], scores)
        return [self._ranked(*each) for each in zip(asked, slots, strict=True)]

    def _append(self, rows: Sequence[Row], keys: Vectors) -> None:
        start = len(self._rows)
        self._table.write(start, keys)
        self._rows.extend(rows)
        self._slots.update(zip([row.id for row in rows], range(start, len(self._rows)), strict=True))
        self._tags.extend(start, [row.tags for row in rows])

    def _replace(self, row: Row, key: Vectors) -> None:
        """Take the key [1, D] of a memory that is here."""
        slot = self._slots[row.id]
        self._tags.drop(slot, self._rows[slot].tags)
        self._set(slot, row)
        self._table.write(slot, key)

    def _set(self, slot: int, row: Row) -> None:
        """Give an empty position to `row`."""
        self._rows[slot] = row
        self._slots[row.id] = slot
        self._tags.put(slot, row.tags)

    def _shortlist(self, asked: Asked, among: Slots | None) -> Slots | None:
        """Candidates that can be told without a scan; None: there are too many."""
        taking_part = len(self) if among is None else len(among)
        if taking_part <= asked.count:
            return np.arange(len(self)) if among is None else among
        if not len(asked.passages):
            return self._first(asked.count, among)
        if among is None or _FEW * len(among) > len(self):
            return None
        keys = torch.from_numpy(self._table.take(among))
        scores = (keys @ torch.from_numpy(asked.passages).T).amax(1)
        return among[candidates(scores, asked.count, self._table.error(asked.passages))]

    def _first(self, count: int, among: Slots | None) -> Slots:
        """Those with the smallest ids: without passages, all are equal."""
        ids = self._slots if among is None else (self._rows[slot].id for slot in among)
        return np.array([self._slots[one] for one in nsmallest(count, ids)], np.intp)

    def _scan(self, passages: Sequence[Vectors]) -> Iterator[torch.Tensor]:
        """For each query its scores [N], nearly."""
        scores = self._table.scan(np.concatenate(passages))
        start = 0
        for own in passages:
            yield scores[start : start + len(own)].amax(0)
            start += len(own)

    def _nearest(self, asked: Asked, among: Slots | None, scores: torch.Tensor) -> Slots:
        error = self._table.error(asked.passages)
        if among is None:
            return candidates(scores, asked.count, error)
        return among[candidates(scores[torch.from_numpy(among)], asked.count, error)]

    def _ranked(self, asked: Asked, slots: Slots | None) -> Found:
        """The best of the candidates, by their exact scores."""
        assert slots is not None
        keys = self._table.take(slots)
        scores = best_of(keys, asked.passages)
        rows = [self._rows[slot] for slot in slots]
        order = ranking(scores, [row.id for row in rows], asked.count)
        return Found([rows[n] for n in order], scores[order], keys[order])


def _groups(items: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """`items` in order, in groups whose sizes sum to at most `_TOGETHER`, or of one item."""
    group: list[int] = []
    room = _TOGETHER
    for item, size in zip(items, sizes, strict=True):
        if group and size > room:
            yield group
            group, room = [], _TOGETHER
        group.append(item)
        room -= size
    if group:
        yield group
