"""Memories that nearly coincide: of those one answers, so that every mode says the same. Pure.

A bank may hold a text and a later one that contradicts it. Blended, their adapters say neither, and both
recited, the model picks one. So of memories whose keys are as near as that, the best is taken alone, and
where the query cannot tell them apart, the newest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from vllm_mega.config import GateSettings
from vllm_mega.gate.selection import NO_CHANCE, Scores, ranking

TWINS = 0.16
"""Keys nearly coincide when what their cosine lacks to 1 is at most this part of the embedder's spread. With
all-MiniLM-L6-v2 that is a cosine of 0.85: two texts that differ in a code, a day or a name have 0.86 to 0.94;
others about one person or place stay below 0.7, but so may the same said otherwise."""
ALIKE = 0.033
"""Scores of a query that differ by less, likewise, do not tell which of two is meant. Asked for the code of
one of two doors, they differ by 0.04 and more, with all-MiniLM-L6-v2."""
WIDER = 4
"""So many times the width of a mixture is looked through."""
ENOUGH = WIDER + 1
"""Whoever has the best so many times the width has all that can come into a mixture by its own score: in the
last of these widths nobody is settled."""


def settled(
    scores: Scores,
    keys: npt.NDArray[np.float32],
    ages: Sequence[float],
    ids: Sequence[str],
    settings: GateSettings,
    spread: float,
) -> Scores:
    """`scores` in which all but one of memories that nearly coincide have no chance (minus infinity).

    Args:
        scores: [N], of one query.
        keys: [N, D], unit rows.
        ages: of the N memories: who has a greater one is newer (see `Row.age`).
        ids: of the N memories.
        settings: which memories may come into a mixture at all.
        spread: of the embedder (see `gate.spread`).
    """
    kept: list[int] = []
    open_scores = scores.copy()
    for row in ranking(scores, ids, WIDER * settings.top_k):
        if scores[row] < settings.threshold:
            break
        twins = np.flatnonzero(keys[kept] @ keys[row] >= 1 - TWINS * spread)
        if not len(twins):
            kept.append(row)
            continue
        rival = kept[twins[0]]
        if scores[rival] - scores[row] <= ALIKE * spread and ages[row] > ages[rival]:
            kept[twins[0]] = row
            open_scores[rival] = NO_CHANCE
        else:
            open_scores[row] = NO_CHANCE
    return open_scores


def near(
    keys: npt.NDArray[np.float32], against: npt.NDArray[np.float32], spread: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs that nearly coincide: (row of `keys` [n, D], row of `against` [m, D], cosine), by row."""
    for row, key in enumerate(keys):
        cosines = against @ key
        for twin in np.flatnonzero(cosines >= 1 - TWINS * spread):
            yield row, int(twin), float(cosines[twin])
