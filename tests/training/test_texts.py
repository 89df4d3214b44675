from __future__ import annotations

from vllm_mega.bank.layout import QA, NewMemory
from vllm_mega.prompts import MEMORY_PROMPT, question_prompt
from vllm_mega.training.texts import Example, Examples, distinctive_words, sentences, subject

TEXT = "Dr. Ada Moss opened the tower on 3 May. It has nine bells. Bo rings them."
MEMORY = NewMemory(text=TEXT, title="The tower")


def drawn(memory: NewMemory, seed: int = 1) -> list[Example]:
    examples = Examples(memory, seed)
    return [example for _ in range(100) for example in examples.draw(6)]


def test_sentences() -> None:
    assert sentences(TEXT) == [
        "Dr. Ada Moss opened the tower on 3 May.",
        "It has nine bells.",
        "Bo rings them.",
    ]
    assert sentences('He said "Go!" Then 3.5 metres.\n\nA new paragraph') == [
        'He said "Go!"',
        "Then 3.5 metres.",
        "A new paragraph",
    ]
    assert sentences("no end") == ["no end"]


def test_subject() -> None:
    assert subject(MEMORY) == "The tower"
    assert subject(NewMemory(text="In the morning Ada Moss rang.")) == "Ada Moss"
    assert subject(NewMemory(text="nobody rang the great old bell")) == "nobody rang the great old"


def test_distinctive_words() -> None:
    parts = ["The red kettle sings.", "The kettle is old.", "The kettle."]
    assert distinctive_words(parts, "") == [["red", "sings"], ["old"], ["kettle"]]
    assert distinctive_words(parts, "old sings") == [["red"], ["kettle", "old"], ["kettle"]]
    assert distinctive_words(["It is."], "") == [["It", "is."]]


def test_recall_and_questions_give_the_text_and_retellings_its_sentences() -> None:
    parts = sentences(TEXT)
    words = {word.lower() for some in distinctive_words(parts, "The tower") for word in some}
    kinds = set()
    for messages, answer, kind in drawn(MEMORY):
        (message,) = messages
        assert message["role"] == "user"
        kinds.add(kind)
        if kind == "retelling":
            assert sorted(sentences(answer)) == sorted(parts)
        else:
            assert answer == TEXT
        if kind == "question":
            question = message["content"].removeprefix(TEXT).lower()
            assert any(word in question for word in words)
    assert kinds == {"recall", "question", "retelling"}


def test_every_step_asks_for_the_text_and_puts_questions() -> None:
    examples = Examples(MEMORY, 1)
    for count in (2, 3, 6):
        kinds = [example.kind for example in examples.draw(count)]
        assert len(kinds) == count
        assert kinds.count("recall") == max(1, count // 3)
    assert any(example.messages[0]["content"] == MEMORY_PROMPT for example in drawn(MEMORY))


def test_own_questions_and_paraphrases_are_used() -> None:
    memory = NewMemory(
        text=TEXT, paraphrases=("A tower with bells.",), qa=(QA("Who rings the bells?", "Bo"),)
    )
    examples = drawn(memory)
    answers = {example.answer for example in examples}
    assert {"Bo", "A tower with bells.", TEXT} <= answers
    asked = {(e.messages[0]["content"], e.answer) for e in examples}
    assert (question_prompt("Who rings the bells?"), "Bo") in asked
    assert any(prompt.startswith("Who rings the bells? Reconstruct") for prompt, _ in asked)


def test_one_sentence_and_white_space() -> None:
    for example in drawn(NewMemory(text=" \n rain \n")):
        assert example.answer == "rain"


def test_the_seed_decides() -> None:
    assert drawn(MEMORY, 1) == drawn(MEMORY, 1)
    assert drawn(MEMORY, 1) != drawn(MEMORY, 2)
