from __future__ import annotations

import pytest

from vllm_mega.bank.layout import QA, NewMemory
from vllm_mega.prompts import MEMORY_PROMPT, QUESTION_SUFFIX, irag_messages
from vllm_mega.text import sentences
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.texts import Example, examples, subject

TEXT = "The tower was built in 1873 by Hesper Vane. It stands in Odrin. Nine bells hang there."
MEMORY = NewMemory(text=f" {TEXT}\n", title="The tower")
RECIPE = Recipe()
RULES = RECIPE.texts


def of(kind: str, memory: NewMemory = MEMORY, seed: int = 1) -> list[Example]:
    return [example for example in examples(memory, seed, RECIPE) if example.kind == kind]


def test_subject() -> None:
    assert subject(MEMORY, RECIPE) == "The tower"
    assert subject(NewMemory(text="In the morning Ada Moss rang."), RECIPE) == "Ada Moss"
    assert subject(NewMemory(text="nobody rang the great old bell"), RECIPE) == "nobody rang the great old"


def test_asked_for_all_it_gives_the_whole_text() -> None:
    (recall,) = of("recall")
    told = of("question")[0]
    assert recall.messages[0]["content"] == MEMORY_PROMPT
    assert told.messages[0]["content"] == "Tell me about The tower."
    assert all(example.answer == TEXT and example.limit is None for example in (recall, told))


@pytest.mark.parametrize(("kind", "count"), [("question", RULES.questions), ("informed", RULES.informed)])
def test_questions_are_about_every_sentence_in_turn(kind: str, count: int) -> None:
    parts = sentences(TEXT)
    found = of(kind)[-count:]
    assert [example.answer for example in found] == [parts[n % 3] for n in range(count)]
    limits = [example.limit for example in found]
    assert set(limits) == {None, RULES.limit}


def test_informed_questions_share_the_context_and_are_asked_as_irag_asks() -> None:
    for example in of("informed"):
        assert example.context == TEXT
        question = (
            example.messages[0]["content"].removeprefix(f"{TEXT}\n\n").removesuffix(f" {QUESTION_SUFFIX}")
        )
        assert example.messages == irag_messages(question, TEXT)
    assert not any(example.context for kind in ("recall", "question") for example in of(kind))


def test_some_questions_ask_for_one_sentence_and_some_do_not() -> None:
    suffixed = [example.messages[0]["content"].endswith(QUESTION_SUFFIX) for example in of("question")]
    assert True in suffixed
    assert False in suffixed


def test_own_questions_come_first_and_get_their_own_answers() -> None:
    memory = NewMemory(text=TEXT, qa=(QA("Who built it?", "Vane"), QA("Where is it?", "Odrin")))
    for kind in ("question", "informed"):
        found = [example for example in of(kind, memory) if example.answer != TEXT]
        assert {example.answer for example in found[: 2 * RULES.own]} == {"Vane", "Odrin"}
        assert all(example.limit is None for example in found[: 2 * RULES.own])
        assert not {"Vane", "Odrin"} & {example.answer for example in found[2 * RULES.own :]}
    assert len(of("question", memory)) == 1 + RULES.questions + 2 * RULES.own


def test_the_seed_decides() -> None:
    assert examples(MEMORY, 1, RECIPE) == examples(MEMORY, 1, RECIPE)
    assert examples(MEMORY, 1, RECIPE) != examples(MEMORY, 2, RECIPE)


def test_one_word() -> None:
    assert {example.answer for example in examples(NewMemory(text=" \n rain \n"), 0, RECIPE)} == {"rain"}
