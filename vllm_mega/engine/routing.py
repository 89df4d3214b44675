"""Routing tables: which slots each token of a step uses, with which weights. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

NULL_SLOT = -1

Route = tuple[tuple[int, float], ...]
"""Pairs (slot, weight) of one request."""


def routing_table(
    token_ids: Sequence[int], routes: Mapping[int, Route]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The table `slot[T,K]`, `weight[T,K]` of a step, K being the widest route in it.

    Args:
        token_ids: [T] engine-local adapter id of every token; 0 or less means none.
        routes: the route of every positive id in `token_ids`.

    Raises:
        KeyError: a token's id has no route; going on would answer without its memories.
    """
    ids, inverse = np.unique(np.asarray(token_ids, dtype=np.int64), return_inverse=True)
    rows: list[Route] = [routes[int(i)] if i > 0 else () for i in ids]
    width = max((len(row) for row in rows), default=0)
    slot = np.full((len(rows), width), NULL_SLOT, dtype=np.int32)
    weight = np.zeros((len(rows), width), dtype=np.float32)
    for n, row in enumerate(rows):
        for k, (s, w) in enumerate(row):
            slot[n, k], weight[n, k] = s, w
    return slot[inverse], weight[inverse]
