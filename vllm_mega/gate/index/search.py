"""From scores that are nearly right to those that may be among the best. Pure."""

from __future__ import annotations

import numpy as np
import torch

from vllm_mega.gate.index.table import Slots
from vllm_mega.gate.selection import SCORE_DECIMALS

_FOLD = 64
"""Scores of which only the best is looked at first."""
_WIDE = 4
"""So many times as many of these as are wanted, at least: else too many share one."""


def candidates(scores: torch.Tensor, count: int, error: float) -> Slots:
    """Positions in `scores` [N] of all that may belong to the `count` best, when each is wrong by `error`.

    At least `count` of the exact scores are no lower than the least of the `count` best here, minus `error`;
    so whoever is further below it than twice that, and than what rounding may add, is not among them.

    Args:
        scores: [N], bfloat16 or float32.
        count: 1 to N.
        error: not negative.
    """
    fold = _FOLD if len(scores) >= _FOLD * _WIDE * count else 1
    padded = torch.nn.functional.pad(scores, (0, -len(scores) % fold), value=-torch.inf)
    best = padded.view(fold, -1).amax(0).float().numpy()
    bound = np.partition(best, -count)[-count] - 2 * error - 10.0**-SCORE_DECIMALS
    near = np.flatnonzero(best >= bound)
    slots = (near + len(best) * np.arange(fold)[:, None]).ravel()
    slots = slots[slots < len(scores)]
    return np.asarray(slots[scores[slots].float().numpy() >= bound], np.intp)
