"""Tokens of numbers: they come back, and tell nothing on the way."""

from __future__ import annotations

import pytest

from vllm_mega.http.memories.seals import Seals

SEALS = Seals("bank")


@pytest.mark.parametrize("number", [0, 1, 255, 2**40, 2**64 - 1])
def test_a_number_comes_back_where_it_was_meant_for(number: int) -> None:
    token = SEALS.seal(number, "event", "sea")
    assert SEALS.open(token, "event", "sea") == number
    assert Seals("bank").open(token, "event", "sea") == number
    assert SEALS.seal(number, "event", "sea") == token


def test_it_leads_nowhere_else() -> None:
    token = SEALS.seal(7, "event", "sea")
    assert SEALS.open(token, "event", "land") is None
    assert SEALS.open(token, "page", "sea") is None
    assert Seals("other").open(token, "event", "sea") is None


def test_two_tokens_do_not_tell_how_far_they_are_apart() -> None:
    tokens = [SEALS.seal(n, "event", "sea") for n in range(200)]
    assert len(set(tokens)) == 200
    assert len({token[:2] for token in tokens}) > 100
    assert len({token[-2:] for token in tokens}) > 50


@pytest.mark.parametrize("made", ["", "7", "x" * 22, "x" * 21 + "ü", "=" * 22, "A" * 23, "a b" + "c" * 19])
def test_what_was_made_by_hand_is_refused(made: str) -> None:
    assert SEALS.open(made, "event", "sea") is None


def test_another_character_anywhere_is_refused() -> None:
    token = SEALS.seal(7, "event", "sea")
    for n in range(len(token)):
        other = "A" if token[n] != "A" else "E"
        assert SEALS.open(token[:n] + other + token[n + 1 :], "event", "sea") is None
