"""How often something may happen."""

from __future__ import annotations

from vllm_mega.access.rate import Rate


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_minute_has_so_many_times_and_they_come_back_steadily() -> None:
    clock = Clock()
    rate = Rate(6, clock)
    assert [rate.take() for _ in range(8)] == [True] * 6 + [False] * 2
    clock.now += 9.9
    assert not rate.take()
    clock.now += 0.2
    assert [rate.take(), rate.take()] == [True, False]


def test_rest_saves_up_a_minute_and_no_more() -> None:
    clock = Clock()
    rate = Rate(3, clock)
    clock.now += 3600
    assert [rate.take() for _ in range(5)] == [True] * 3 + [False] * 2
