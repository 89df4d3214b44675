"""How much a namespace may have, and how fast it may change."""

from __future__ import annotations

import pytest

from vllm_mega.access.limits import Limits, Rates
from vllm_mega.errors import LimitError, RequestError


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_text_has_a_greatest_length() -> None:
    Limits(text_bytes=10).check_size(10)
    Limits(text_bytes=None).check_size(10**9)
    with pytest.raises(RequestError, match="may have texts of 10 bytes, and these have 11"):
        Limits(text_bytes=10).check_size(11)


def test_a_minute_has_so_many_changes_and_they_come_back_steadily() -> None:
    clock = Clock()
    rates = Rates(clock)
    rates.take("sea", 6, 6)
    with pytest.raises(LimitError) as error:
        rates.take("sea", 1, 6)
    assert error.value.retry_after == 10
    clock.now += 9.9
    with pytest.raises(LimitError):
        rates.take("sea", 1, 6)
    clock.now += 0.2
    rates.take("sea", 1, 6)
    clock.now += 3600
    rates.take("sea", 6, 6)
    with pytest.raises(LimitError):
        rates.take("sea", 1, 6)


def test_namespaces_do_not_share_their_rates() -> None:
    rates = Rates(Clock())
    rates.take("sea", 2, 2)
    rates.take("land", 2, 2)


def test_what_never_fits_is_told_so() -> None:
    with pytest.raises(LimitError, match="may change 2 memories a minute, not 3") as error:
        Rates(Clock()).take("sea", 3, 2)
    assert error.value.retry_after is None


def test_no_limit_counts_nothing() -> None:
    rates = Rates(Clock())
    rates.take("sea", 10**9, None)
    rates.take("sea", 2, 2)


def test_many_namespaces_take_no_room() -> None:
    rates = Rates(Clock())
    for n in range(10_050):
        rates.take(f"n{n}", 1, 5)
    assert len(rates._left) == 10_000
