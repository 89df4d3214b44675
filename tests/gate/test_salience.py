"""Salience: bounded, tips near ties only, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mega.bank.catalog.uses import Use
from vllm_mega.config import GateSettings
from vllm_mega.gate.salience import (
    LEVELS,
    PINNED,
    REST,
    Tip,
    added_for,
    decayed,
    near_ties,
    salience_of,
    strengthened,
    tipped,
)
from vllm_mega.gate.selection import NO_CHANCE, select, winners
from vllm_mega.gate.twins import WIDER

DAY = 86_400.0
MONTH = 30 * DAY
IDS = [f"m{n}" for n in range(40)]

levels = st.integers(0, LEVELS).map(lambda n: n / LEVELS)
margins = st.floats(0.0, 0.2)
thresholds = st.integers(-10_000, 10_000).map(lambda n: n / 10_000)


@st.composite
def ranked(draw: st.DrawFn) -> np.ndarray:
    """Scores, the nearest first, many of them near each other; of some a twin has taken the place."""
    top = draw(st.integers(-9_000, 10_000))
    steps = draw(st.lists(st.integers(0, 300), max_size=39))
    scores = np.array([top, *(top - np.cumsum(steps))]) / 10_000
    gone = draw(st.sets(st.integers(1, max(1, len(scores) - 1)), max_size=5))
    scores[[n for n in gone if n < len(scores)]] = NO_CHANCE
    return scores


def tip_all(scores: np.ndarray, saliences: list[float], settings: GateSettings, margin: float) -> np.ndarray:
    near = near_ties(scores, settings, margin)
    return tipped(scores, [Tip(n, IDS[n], saliences[n], added_for(saliences[n], margin)) for n in near])


@given(ranked(), st.lists(levels, min_size=40, max_size=40), margins, st.integers(1, 5), thresholds)
def test_who_is_nearer_by_more_than_the_margin_stays_in_front(
    scores: np.ndarray, saliences: list[float], margin: float, top_k: int, threshold: float
) -> None:
    settings = GateSettings(top_k, threshold)
    after = tip_all(scores, saliences, settings, margin)
    front, behind = np.nonzero(scores[:, None] > scores[None, :] + margin + 1e-9)
    assert (after[front] > after[behind]).all()
    assert (after >= scores).all()
    assert (after <= scores + margin + 1e-9).all()


@given(ranked(), st.lists(levels, min_size=40, max_size=40), margins, st.integers(1, 5), thresholds)
def test_only_those_near_the_best_that_reach_the_threshold_get_something(
    scores: np.ndarray, saliences: list[float], margin: float, top_k: int, threshold: float
) -> None:
    settings = GateSettings(top_k, threshold)
    after = tip_all(scores, saliences, settings, margin)
    changed = np.flatnonzero(after != scores)
    assert (scores[changed] >= max(threshold, scores.max() - margin - 1e-9)).all()
    assert (changed < WIDER * top_k).all()
    ids = IDS[: len(scores)]
    assert {i for i, _ in select(after, ids, settings)} <= set(np.flatnonzero(scores >= threshold))
    assert len(winners(after, ids, settings)) == len(winners(scores, ids, settings))


@given(ranked(), levels, margins, st.integers(1, 5))
def test_equal_salience_keeps_the_order(
    scores: np.ndarray, salience: float, margin: float, top_k: int
) -> None:
    settings = GateSettings(top_k, -1.0)
    after = tip_all(scores, [salience] * 40, settings, margin)
    ids = IDS[: len(scores)]
    assert winners(after, ids, settings) == winners(scores, ids, settings)


def test_a_near_tie_goes_to_the_one_that_is_used() -> None:
    scores, settings = np.array([0.81, 0.80, 0.7]), GateSettings()
    after = tip_all(scores, [0.0, 0.75, 1.0], settings, 0.02)
    assert after.tolist() == [0.81, 0.815, 0.7]
    assert winners(after, IDS[:3], settings) == [1, 0]
    assert tip_all(scores, [0.0, 0.25, 1.0], settings, 0.02).tolist() == [0.81, 0.805, 0.7]


def test_who_is_alone_gets_nothing() -> None:
    scores = np.array([0.9, 0.8])
    assert near_ties(scores, GateSettings(), 0.02) == []
    assert near_ties(np.zeros(0), GateSettings(), 0.02) == []
    assert near_ties(np.array([0.5, 0.4999]), GateSettings(threshold=0.5), 0.02) == [], "below the threshold"


def test_exactly_the_margin_is_still_a_near_tie() -> None:
    assert near_ties(np.array([0.83, 0.81, 0.8099]), GateSettings(), 0.02) == [0, 1]


def test_a_pin_counts_as_the_highest() -> None:
    settings = GateSettings()
    after = tip_all(np.array([0.8, 0.8]), [salience_of(1e12), PINNED], settings, 0.02)
    assert winners(after, IDS[:2], settings)[0] == 1


@given(margins, levels)
def test_what_is_added_is_never_more_than_the_margin(margin: float, salience: float) -> None:
    added = added_for(salience, margin)
    assert 0.0 <= added <= margin + 1e-9
    assert added == round(added, 4)


@given(st.floats(0.0, 1e300), st.floats(0.0, 1e300))
def test_salience_grows_with_strength_and_never_reaches_a_pin(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0.0 <= salience_of(low) <= salience_of(high) < PINNED


@pytest.mark.parametrize(("strength", "salience"), [(0.0, 0.0), (0.5, 0.0), (1.0, 1 / 16), (8.0, 0.5)])
def test_so_much_is_so_salient(strength: float, salience: float) -> None:
    assert salience_of(strength) == salience


@given(st.lists(st.floats(0.0, 400 * DAY), max_size=60), st.floats(DAY, 3650 * DAY))
def test_no_run_of_uses_passes_the_bound(times: list[float], half_life: float) -> None:
    use: Use | None = None
    for at in times:  # in any order: several servers tell of them
        before, use = use, strengthened(use, at, half_life)
        assert before is None or use.last >= before.last
        assert use.strength <= 1 / (1 - 2 ** (-REST / half_life)) + 1e-6
    assert use is None or use.strength <= len(times)


def test_uses_within_an_hour_count_once() -> None:
    use = strengthened(None, 1000.0, MONTH)
    assert use == Use(1.0, 1000.0)
    for at in (1000.0, 1000.0 + REST - 1, 500.0):
        assert strengthened(use, at, MONTH) == use
    later = strengthened(use, 1000.0 + REST, MONTH)
    assert later.last == 1000.0 + REST
    assert later.strength == pytest.approx(2.0, abs=0.01)


def test_strength_halves_and_a_clock_that_goes_back_makes_none_stronger() -> None:
    use = Use(8.0, 1000.0)
    assert decayed(use, 1000.0 + MONTH, MONTH) == 4.0
    assert decayed(use, 1000.0 + 3 * MONTH, MONTH) == 1.0
    assert decayed(use, 0.0, MONTH) == 8.0
