"""Which memory expires next."""

from __future__ import annotations

from tests.bank.catalog.invented import name
from vllm_mega.bank.catalog.expirations import Expirations


def test_each_is_over_once_and_in_order() -> None:
    expirations = Expirations()
    for one, at in (("c", 30.0), ("a", 10.0), ("b", 20.0)):
        expirations.set(name(one), at)
    assert expirations.over(9.9) == []
    assert expirations.over(20.0) == [name("a"), name("b")]
    assert expirations.over(20.0) == []
    assert expirations.over(99.0) == [name("c")]


def test_the_last_word_counts() -> None:
    expirations = Expirations()
    for one, moments in {"later": (10.0, 30.0), "sooner": (30.0, 10.0), "never": (10.0, None)}.items():
        for at in moments:
            expirations.set(name(one), at)
    assert expirations.over(20.0) == [name("sooner")]
    assert expirations.over(40.0) == [name("later")]


def test_what_changes_again_and_again_is_kept_once() -> None:
    expirations = Expirations()
    for n in range(10_000):
        expirations.set(name("a"), 1000.0 + n)
    assert len(expirations._next) < 100
    assert expirations.over(99_999.0) == [name("a")]
