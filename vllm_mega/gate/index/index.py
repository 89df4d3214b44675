"""The gate's index: keys as they come from the catalog, by namespace.

Every search is exact: all keys are scanned in bfloat16, and what may be among the best is compared in
float64. That costs no building, no file and no more for a change than what has changed, and it finds what a
graph of neighbours misses (docs/gate.md has figures of both).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from vllm_mega.bank.catalog.records import MemoryName, Row
from vllm_mega.gate.index.shelf import Asked, Found, Shelf
from vllm_mega.gate.vectors import Vectors


class Index:
    """Memories that have a key; see `bank.catalog.follower.Keys`.

    Changed and asked by one thread at a time: inside `Library.refresh` and `Library.still`.
    """

    def __init__(self) -> None:
        """Empty."""
        self._shelves: dict[str, Shelf] = {}

    def put(self, rows: Sequence[Row], keys: Vectors) -> None:
        """Take keys [N, D] of `rows`, in place of what they had."""
        places: dict[str, list[int]] = defaultdict(list)
        for n, row in enumerate(rows):
            places[row.namespace].append(n)
        for namespace, some in places.items():
            if namespace not in self._shelves:
                self._shelves[namespace] = Shelf(keys.shape[1])
            everybody = len(some) == len(rows)
            mine = keys if everybody else keys[some]
            self._shelves[namespace].put(rows if everybody else [rows[n] for n in some], mine)

    def drop(self, names: Sequence[MemoryName]) -> None:
        """Forget these memories, if they are here."""
        for name in names:
            shelf = self._shelves.get(name.namespace)
            if shelf is not None:
                shelf.drop(name.id)
                if not len(shelf):
                    del self._shelves[name.namespace]

    def get(self, ids: Sequence[str], asked: Asked) -> Found:
        """Those of these memories that take part in what is asked, in this order."""
        shelf = self._shelves.get(asked.namespace)
        return shelf.get(ids, asked) if shelf else _nobody(asked)

    def count(self, namespace: str, tags: Sequence[str] = ()) -> int:
        """How many memories of `namespace` have all of `tags`."""
        shelf = self._shelves.get(namespace)
        return shelf.count(tags) if shelf else 0

    def search(self, asked: Sequence[Asked]) -> list[Found]:
        """The best memories for each, of equal ones the smaller id first.

        One gets the same alone and among others.
        """
        found = [_nobody(one) for one in asked]
        by_namespace: dict[str, list[int]] = defaultdict(list)
        for n, one in enumerate(asked):
            by_namespace[one.namespace].append(n)
        for namespace in by_namespace.keys() & self._shelves.keys():
            some = by_namespace[namespace]
            best = self._shelves[namespace].search([asked[n] for n in some])
            for n, one_best in zip(some, best, strict=True):
                found[n] = one_best
        return found


def _nobody(asked: Asked) -> Found:
    return Found([], np.zeros(0), asked.passages[:0])
