"""Salience: what use and age make of a memory, and how it tips near ties. Pure.

A memory grows stronger when it is used and weaker with time. That decides only between memories that are
about equally near to a query: the gate adds to a score at most the margin, and only to scores that are within
the margin of the best. So who is nearer by more than the margin stays in front, however often the other was
used, and what does not reach the threshold by its own score is not used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vllm_mega.bank.catalog.uses import Use
from vllm_mega.config import GateSettings
from vllm_mega.gate.selection import SCORE_DECIMALS, Scores
from vllm_mega.gate.twins import WIDER

REST = 3600.0
"""Seconds after a use that counted in which others do not: a conversation is one use, and nobody can pump a
memory up by asking again and again."""
FAMILIAR = 8.0
"""Uses, none of which has aged, that make half of the highest salience."""
LEVELS = 16
"""Steps of salience: between two of them nothing changes, so equal queries give equal mixtures for a while,
and those share a prefix cache."""
PINNED = 1.0
"""Salience of a memory that is pinned: higher than use can make one."""


class Salience(NamedTuple):
    """How much use counts."""

    margin: float
    """Scores that differ by no more are near ties; also the most that is added to a score."""
    half_life: float
    """Seconds in which the strength of an unused memory falls to one half."""


class Tip(NamedTuple):
    """A memory among near ties."""

    position: int
    """In the scores."""
    id: str
    salience: float
    """What use and age have made of it, 0 to 1; 1: it is pinned."""
    added: float
    """To its score; 0 to the margin."""


def decayed(use: Use, now: float, half_life: float) -> float:
    """The strength that is left at `now` (seconds since 1970)."""
    return use.strength * math.exp2(-max(0.0, now - use.last) / half_life)


def strengthened(use: Use | None, at: float, half_life: float) -> Use:
    """What a use at `at` makes of a memory; the same if it does not count.

    However often a memory is used, its strength stays below 1 / (1 - 2 ** (-REST / half_life)).
    """
    if use is None:
        return Use(1.0, at)
    if at - use.last < REST:
        return use
    return Use(1.0 + decayed(use, at, half_life), at)


def salience_of(strength: float) -> float:
    """From 0 (never used) to 15/16, in steps; half at `FAMILIAR`."""
    return min(LEVELS - 1, math.floor(LEVELS * strength / (strength + FAMILIAR))) / LEVELS


def near_ties(scores: Scores, settings: GateSettings, margin: float) -> list[int]:
    """Positions of all that are within `margin` of the best and reach the threshold; none, if it is alone.

    Args:
        scores: [N], as `twins.settled` gives them: the memories that are nearest come first.
        settings: of the first `WIDER` times `top_k` scores the others are not looked at.
        margin: not negative.
    """
    first = scores[: WIDER * settings.top_k]
    if not len(first):
        return []
    least = max(settings.threshold, first.max() - margin - 10.0 ** -(SCORE_DECIMALS + 2))
    near = np.flatnonzero(first >= least)
    return near.tolist() if len(near) > 1 else []


def added_for(salience: float, margin: float) -> float:
    """To a score; rounded down to the decimals of scores, so that it is never more than the margin."""
    unit = 10.0**SCORE_DECIMALS
    return math.floor(unit * margin * salience + 1e-6) / unit


def tipped(scores: Scores, tips: Sequence[Tip]) -> Scores:
    """The scores [N], with what is added to them."""
    if not any(tip.added for tip in tips):
        return scores
    raised = scores.copy()
    for tip in tips:
        raised[tip.position] = round(raised[tip.position] + tip.added, SCORE_DECIMALS)
    return raised
