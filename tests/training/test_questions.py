from __future__ import annotations

import random

import pytest

from vllm_mega.text import sentences
from vllm_mega.training.recipe.english import English
from vllm_mega.training.recipe.questions import Questions, distinctive_words
from vllm_mega.training.recipe.recipe import Recipe

TEXT = "The tower was built in May 1873 by Hesper Vane. It stands in Odrin. Nine bells hang there."
PARTS = sentences(TEXT)
ENGLISH = English()


def asked(n: int, paraphrases: tuple[str, ...] = (), seed: int = 1, count: int = 200) -> set[str]:
    questions = Questions(PARTS, "The tower", paraphrases, random.Random(seed), Recipe())
    return {questions.about(n) for _ in range(count)}


def words(questions: set[str]) -> set[str]:
    return {word.lower() for question in questions for word in ENGLISH.content_words(question)}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('He said "Go." Then he left.', ['He said "Go."', "Then he left."]),
        ("J. R. Vane met Dr. Moss. They sang.", ["J. R. Vane met Dr. Moss.", "They sang."]),
        ("It cost 3.5 crowns. cheap, too", ["It cost 3.5 crowns. cheap, too"]),
        ("no end\n\nnext", ["no end", "next"]),
        ("  ", []),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_distinctive_words() -> None:
    parts = ["The red kettle sings.", "The kettle is old.", "The kettle."]
    assert distinctive_words(parts, "", ENGLISH) == [["red", "sings"], ["old"], ["kettle"]]
    assert distinctive_words(parts, "old sings", ENGLISH) == [["red"], ["kettle", "old"], ["kettle"]]
    assert distinctive_words(["It is."], "", ENGLISH) == [["It", "is."]]


def test_what_a_sentence_holds_decides_how_it_is_asked_for() -> None:
    openers = [{question.split()[0] for question in asked(n)} for n in range(3)]
    assert {"When", "Who", "What"} <= openers[0]
    assert "Where" in openers[1]
    assert "When" not in openers[1]
    assert "How" in openers[2]
    assert "Where" not in openers[2]


def test_questions_name_the_subject_and_words_of_their_sentence_alone() -> None:
    for n in range(3):
        questions = asked(n)
        assert all("The tower" in question for question in questions)
        others = {w.lower() for m in range(3) if m != n for w in ENGLISH.content_words(PARTS[m])}
        own = {w.lower() for w in ENGLISH.content_words(PARTS[n])}
        assert words(questions) & own
        assert not (words(questions) & others) - own - {"tower"}


def test_paraphrases_bring_other_words_for_the_right_sentence() -> None:
    paraphrase = "Hesper Vane erected the tower in 1873. In Odrin it can be visited. It possesses nine bells."
    for n, word in enumerate(("erected", "visited", "possesses")):
        assert word in words(asked(n, (paraphrase,)))
        assert not any(word in words(asked(m, (paraphrase,))) for m in range(3) if m != n)


def test_a_paraphrase_that_shares_nothing_is_passed_over() -> None:
    assert asked(0, ("Zebras graze.",)) == asked(0)


def test_the_seed_decides() -> None:
    assert asked(0, seed=1, count=5) == asked(0, seed=1, count=5)
    assert asked(0, seed=1, count=5) != asked(0, seed=2, count=5)


def test_a_text_without_content_words() -> None:
    questions = Questions(["It is."], "It", (), random.Random(0), Recipe())
    assert questions.about(0).endswith("?")
