"""The benchmark of shared prefixes: what is asked, and how figures are made of answers."""

from __future__ import annotations

from loadtests.prefix import CASES, MANY, PREFIXES, Case, row
from loadtests.prefix_child import Answered


def test_the_base_model_is_asked_the_same_questions() -> None:
    case = Case(2000, "all-different", 2000)
    base, ours = case.asks(3, "none"), case.asks(3, "all-different")
    assert (base.seed, base.prefix, base.requests) == (ours.seed, ours.prefix, ours.requests)
    assert (base.mixtures, ours.mixtures, ours.start) == ("none", "all-different", 2000)
    seeds = [each.asks(turn, "none").seed for each in CASES for turn in range(-2, 3)]
    assert len(set(seeds)) == len(seeds), "no question twice: its blocks would be in the cache"


def test_every_prefix_is_asked_with_mixtures_from_the_question_on() -> None:
    asked = {(case.prefix, case.mixtures, case.start, case.requests) for case in CASES}
    assert {(n, "all-different", n, 1) for n in PREFIXES} <= asked
    assert (2000, "all-different", 0, 1) in asked
    assert (2000, "all-different", 2000, MANY) in asked


def test_a_ratio_is_of_neighbours() -> None:
    pairs = [
        (Answered(0.1, 112), Answered(0.11, 112)),
        (Answered(0.2, 112), Answered(0.22, 112)),
        (Answered(0.1, 112), Answered(0.30, 2032)),
    ]
    found = row(Case(2000, "equal", 2000), pairs)
    assert (found.base_ms, found.ours_ms, found.ratio) == (100.0, 220.0, 1.1)
    assert (found.base_computed_tokens, found.computed_tokens) == (112, 752)
