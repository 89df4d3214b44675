"""What the load test sends: the same every time, and what its names say."""

from __future__ import annotations

from collections import Counter

import pytest

from loadtests.scenarios import PREFIX_WORDS, SCENARIOS, WIDTHS, reference, requests_of

IDS = [f"room-{n}" for n in range(16)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_seed_gives_the_same_requests(name: str) -> None:
    assert requests_of(name, IDS, 30, 1, 8) == requests_of(name, IDS, 60, 1, 8)[:30]
    assert requests_of(name, IDS, 30, 1, 8) != requests_of(name, IDS, 30, 2, 8)


def test_all_scenarios_have_the_same_questions() -> None:
    asked = [requests_of(name, IDS, 20, 0, 8) for name in SCENARIOS]
    assert len({tuple(r.prompt[r.start :].strip() for r in requests) for requests in asked}) == 1


def test_a_prefix_is_shared_and_memory_acts_behind_it() -> None:
    base, ours = (requests_of(f"prefix-{kind}", IDS, 20, 0, 8) for kind in ("base", "different"))
    assert [r.prompt for r in base] == [r.prompt for r in ours]
    assert len({r.prompt[: r.start] for r in ours}) == 1
    assert len(ours[0].prompt[: ours[0].start].split()) == PREFIX_WORDS
    assert [r.mixture for r in ours] == [r.mixture for r in requests_of("all-different", IDS, 20, 0, 8)]
    assert ours[0].extra["mega"]["start"] == {"character": ours[0].start}
    assert base[0].extra == {}
    assert "start" not in requests_of("zipf", IDS, 1, 0, 8)[0].extra["mega"]
    assert (reference("prefix-different"), reference("zipf")) == ("prefix-base", "base")


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
