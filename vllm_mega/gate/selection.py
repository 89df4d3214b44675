"""Scores to weights: threshold, links, the best K, softmax, steps of 1/64. Pure; no text, no bank.

Scores are rounded before anything is decided: embedders give a text the same key only up to the last
bits, and two memories that are equally good must be equal here, whatever those bits say. What is
equal is ordered by id, so that equal queries give equal mixtures, and those share a prefix cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nsmallest
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from vllm_mega.config import GateSettings
from vllm_mega.mixture import WEIGHT_STEPS

SCORE_DECIMALS = 4
_ROWS = 4096
"""Keys that are multiplied at once."""

Scores = npt.NDArray[np.float64]
Links = Mapping[int, Sequence[int]]
"""Position of a memory to the positions of those that it links to."""
NO_LINKS: Links = MappingProxyType({})
NO_CHANCE = -np.inf
"""Score of a memory that takes no part."""


def similarity(keys: npt.NDArray[np.float32], query: npt.NDArray[np.float32]) -> Scores:
    """Product of every key [N, D] with the query [D]: [N], rounded. Of unit vectors it is the cosine.

    Each row by itself, whichever others there are: a product of matrices may sum in another order when it has
    other rows.
    """
    wide = query.astype(np.float64)
    scores = np.empty(len(keys))
    for start in range(0, len(keys), _ROWS):
        products = np.multiply(keys[start : start + _ROWS], wide, order="C")
        scores[start : start + _ROWS] = products.sum(axis=1)
    return np.asarray(scores.round(SCORE_DECIMALS) + 0.0)  # -0.0 becomes 0.0


def best_of(keys: npt.NDArray[np.float32], passages: npt.NDArray[np.float32]) -> Scores:
    """Of every key [N, D] its score with the best passage [W, D] of a query: [N]; without passages 0."""
    scores = [similarity(keys, passage) for passage in passages]
    return np.asarray(np.max(scores, axis=0)) if scores else np.zeros(len(keys))


def ranking(scores: Scores, ids: Sequence[str], limit: int | None = None) -> list[int]:
    """Positions in `scores` [N], the best first, of equal ones the smaller id first; at most `limit`."""
    candidates = np.arange(len(scores))
    limit = len(scores) if limit is None else min(limit, len(scores))
    if limit < len(scores):
        least = np.partition(scores, -limit)[-limit]
        candidates = np.flatnonzero(scores >= least)
    return nsmallest(limit, candidates.tolist(), key=lambda i: (-scores[i], ids[i]))


def winners(scores: Scores, ids: Sequence[str], settings: GateSettings) -> list[int]:
    """Positions of the best `top_k` that reach the threshold, the best first."""
    return [i for i in ranking(scores, ids, settings.top_k) if scores[i] >= settings.threshold]


def select(
    scores: Scores, ids: Sequence[str], settings: GateSettings, links: Links = NO_LINKS
) -> list[tuple[int, int]]:
    """The memories to use: (position in `scores`, weight in steps of 1/64), heaviest first.

    The steps sum to 64; where no score reaches the threshold the list is empty (null route).

    Args:
        scores: [N], as `similarity` gives them.
        ids: of the N memories.
        settings: best `top_k` of those that reach `threshold`, softmax with `beta` (paper, "Gate").
        links: followed one step from each of those, with `link_share`.
    """
    best = winners(scores, ids, settings)
    if not best:
        return []
    scores, best = _with_linked(scores, best, ids, settings, links)
    odds = np.exp(settings.beta * (scores[best] - scores[best[0]]))
    steps = apportion(odds / odds.sum(), WEIGHT_STEPS)
    return [(i, n) for i, n in zip(best, steps, strict=True) if n]


def _with_linked(
    scores: Scores, best: list[int], ids: Sequence[str], settings: GateSettings, links: Links
) -> tuple[Scores, list[int]]:
    """The scores, raised by links from `best`, and the best of `best` and those that it links to.

    A link raises a score and lowers none. What is linked needs not reach the threshold: that is for what
    the query itself brings up.
    """
    linked = followed(scores, best, settings, links)
    if not linked:
        return scores, best
    raised = scores.copy()
    for j, (_, share) in linked.items():
        raised[j] = max(scores[j], share)
    order = sorted({*best, *linked}, key=lambda i: (-raised[i], -scores[i], i not in best, ids[i]))
    return raised, order[: settings.top_k]


def followed(
    scores: Scores, best: Sequence[int], settings: GateSettings, links: Links
) -> dict[int, tuple[int, float]]:
    """What the `best` link to: {position: (the best that links to it, the score that it has by that)}."""
    if not settings.link_share:
        return {}
    linked = {j: i for i in reversed(best) for j in links.get(i, ())}
    # What is linked never wins, below 0 neither.
    shares = {j: min(settings.link_share * scores[i], scores[i]) for j, i in linked.items()}
    return {j: (i, float(round(shares[j], SCORE_DECIMALS))) for j, i in linked.items()}


def apportion(shares: Scores, total: int) -> list[int]:
    """Whole numbers that sum to `total`, as near to `shares` (which sum to 1) as can be: largest remainder.

    Equal remainders: the earlier share wins.
    """
    exact = shares * total
    steps = np.floor(exact).astype(int)
    order = np.argsort(steps - exact, kind="stable")
    steps[order[: total - int(steps.sum())]] += 1
    return [int(n) for n in steps]
