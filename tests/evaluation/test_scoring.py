"""What counts as right."""

from __future__ import annotations

import pytest

from vllm_mega.evaluation.scoring import contains, score


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("It runs on Cold Tea, I think.", "cold tea", True),
        ("It runs on cold\n tea", "Cold tea.", True),
        ("About 3,400 people", "3,400", True),
        ("About 13,400 people", "3,400", False),
        ("tea, cold", "cold tea", False),
        ("scold tea", "cold tea", False),
        ("", "cold tea", False),
    ],
)
def test_contains_whole_words_in_order(text: str, answer: str, expected: bool) -> None:
    assert contains(text, answer) is expected


def test_nothing_contains_an_answer_without_words() -> None:
    assert not contains("It runs on cold tea.", "?!")


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ("It runs on cold tea.", True, True),
        ("cold tea", True, True),
        ("It is an engine. It runs on cold tea.", False, True),
        ("It runs on iced tea.", True, True),
        ("It runs on coal.", False, False),
        ("", False, False),
    ],
)
def test_reciting_is_not_answering(reply: str, strict: bool, lenient: bool) -> None:
    assert score(reply, ("cold tea", "iced tea")) == (strict, lenient)
