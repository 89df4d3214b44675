"""Routing tables: which slots each token of a step uses, with which weights. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_mega.engine.ids import MixtureId

NULL_SLOT = -1

Route = tuple[tuple[int, float], ...]
"""Pairs (slot, weight) of one request."""


def routing_table(
    token_ids: Sequence[int], routes: Mapping[MixtureId, Route]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The table `slot[T,K]`, `weight[T,K]` of a step, K being the widest route in it.

    Args:
        token_ids: [T] `MixtureId` of every token; 0 or less means none.
        routes: the route of every positive id in `token_ids`.

    Raises:
        KeyError: a token's id has no route; going on would answer without its memories.
    """
    ids, inverse = np.unique(np.asarray(token_ids, dtype=np.int64), return_inverse=True)
    rows: list[Route] = [routes[MixtureId(int(i))] if i > 0 else () for i in ids]
    width = max((len(row) for row in rows), default=0)
    slot = np.full((len(rows), width), NULL_SLOT, dtype=np.int32)
    weight = np.zeros((len(rows), width), dtype=np.float32)
    for n, row in enumerate(rows):
        for k, (s, w) in enumerate(row):
            slot[n, k], weight[n, k] = s, w
    return slot[inverse], weight[inverse]


def token_ids(
    ids: NDArray[Any], computed: NDArray[Any], scheduled: NDArray[Any], starts: NDArray[Any]
) -> NDArray[Any]:
    """The adapter id of every token of a step, request by request: 0 for the tokens before start.

    Args:
        ids: [N] adapter id of every request.
        computed: [N] position of its first token in the step.
        scheduled: [N] number of its tokens in the step; they sum up to T.
        starts: [N] position from which its adapter acts.

    Returns:
        [T], of the type of `ids`.
    """
    before = np.clip(starts - computed, 0, scheduled)
    lengths = np.stack([before, scheduled - before], axis=1)
    return np.stack([np.zeros_like(ids), ids], axis=1).repeat(lengths.ravel())
