"""Shared work: one bad item costs nobody else anything."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from vllm_mega.isolation import isolated


class Squares:
    """Raises for all that it is called with when one of them is bad."""

    def __init__(self, *bad: int) -> None:
        self.bad, self.calls = set(bad), 0

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.calls += 1
        if found := self.bad.intersection(numbers):
            raise ValueError(f"bad: {sorted(found)}")
        return [n * n for n in numbers]


@pytest.mark.parametrize("bad", [(), (0,), (17,), (31,), (3, 4, 30), tuple(range(32))])
def test_everyone_else_gets_a_result(bad: tuple[int, ...]) -> None:
    results = isolated(Squares(*bad), range(32), ValueError)
    assert [str(r) for r in results] == [f"bad: [{n}]" if n in bad else str(n * n) for n in range(32)]


def test_good_items_are_computed_together_and_a_bad_one_is_found_by_halves() -> None:
    good, bad = Squares(), Squares(9)
    isolated(good, range(64), ValueError)
    isolated(bad, range(64), ValueError)
    assert good.calls == 1
    assert bad.calls == 1 + 2 * 6


def test_nothing_to_do_and_nothing_that_can_be_done() -> None:
    assert isolated(Squares(), [], ValueError) == []

    def broken(numbers: Sequence[int]) -> list[int]:
        raise ValueError("always")

    assert isolated(broken, [], ValueError) == []


def test_the_trouble_of_everybody_is_raised() -> None:
    with pytest.raises(ValueError, match="bad"):
        isolated(Squares(1), range(4), KeyError)


def test_a_result_for_each() -> None:
    (result,) = isolated(lambda numbers: list(numbers)[:-1], [1], AssertionError)
    assert "1 items gave 0 results" in str(result)
