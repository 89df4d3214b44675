"""What the load test sends: the same every time, and what its names say."""

from __future__ import annotations

from collections import Counter

import pytest

from loadtests.scenarios import SCENARIOS, WIDTHS, requests_of

IDS = [f"room-{n}" for n in range(16)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_seed_gives_the_same_requests(name: str) -> None:
    assert requests_of(name, IDS, 30, 1, 8) == requests_of(name, IDS, 60, 1, 8)[:30]
    assert requests_of(name, IDS, 30, 1, 8) != requests_of(name, IDS, 30, 2, 8)


def test_all_scenarios_have_the_same_prompts() -> None:
    prompts = {tuple(r.prompt for r in requests_of(name, IDS, 20, 0, 8)) for name in SCENARIOS}
    assert len(prompts) == 1


def test_zipf_prefers_the_first() -> None:
    counts = Counter(request.mixture[0][0] for request in requests_of("zipf", IDS, 4000, 0, 8))
    shares = [counts[id_] / 4000 for id_ in IDS]
    assert shares[0] / shares[1] == pytest.approx(2**1.1, rel=0.15)
    assert shares[0] / shares[7] == pytest.approx(8**1.1, rel=0.3)


def test_all_mixtures_are_different() -> None:
    mixtures = [request.mixture for request in requests_of("all-different", IDS, 500, 0, 8)]
    assert len(set(mixtures)) == 500
    assert {len(mixture) for mixture in mixtures} == set(range(WIDTHS[0], WIDTHS[1] + 1))
    assert all((64 * weight).is_integer() for mixture in mixtures for _, weight in mixture)


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        requests_of("all-different", IDS[:1], 3, 0, 8)
    with pytest.raises(ValueError, match="unknown scenario"):
        requests_of("storm", IDS, 3, 0, 8)
