"""Sentences in any script, and what of Markdown is prose."""

# ruff: noqa: RUF001  (marks that look alike are what is tested)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mega.bank.layout import NewMemory
from vllm_mega.memories.documents.blocks import _NEWLINE
from vllm_mega.text import _SENTENCE_END, ends_sentence, heading, parted, prose, sentences
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.texts import examples, subject


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("银柳湖有渡船。它由水牛拉着！谁在拉？", ["银柳湖有渡船。", "它由水牛拉着！", "谁在拉？"]),
        ("他说：“走吧。”然后他走了。", ["他说：“走吧。”", "然后他走了。"]),
        ("湖に舟がある。「行くの？」と彼女は聞いた。", ["湖に舟がある。", "「行くの？」と彼女は聞いた。"]),
        ("真的吗？！是的。", ["真的吗？！", "是的。"]),
        ("من بنى المنارة؟ بنتها ليلى. نعم", ["من بنى المنارة؟", "بنتها ليلى.", "نعم"]),
        ("جھیل میں کشتی ہے۔ اسے بیل کھینچتے ہیں۔", ["جھیل میں کشتی ہے۔", "اسے بیل کھینچتے ہیں۔"]),
        ("झील में नाव है। उसे बैल खींचते हैं।", ["झील में नाव है।", "उसे बैल खींचते हैं।"]),
        ("It costs 3.5. Yes.", ["It costs 3.5.", "Yes."]),
    ],
    ids=["Chinese", "quoted", "Japanese", "a row of marks", "Arabic", "Urdu", "Hindi", "English"],
)
def test_sentences_of_any_script(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts
    assert all(map(ends_sentence, parts[:-1]))


TABLE = "| day | opens |\n| --- | --- |\n| Monday | nine |"
POOL = f"""# Hollin pool

The Hollin pool was dug by Bertram Sile in 1954.
It is heated by a bakery.

## When it opens
{TABLE}

Opening hours
-------------
Otters swim free on Sundays.

---
day | price
--- | ---
Sunday | two pears
"""
ANSWERS = [
    "The Hollin pool was dug by Bertram Sile in 1954.",
    "It is heated by a bakery.",
    "Otters swim free on Sundays.",
]


def test_headings_and_tables_are_no_answers_and_yet_recited() -> None:
    found = examples(NewMemory(POOL), 0, Recipe())
    assert {one.answer for one in found if one.answer != POOL.strip()} == set(ANSWERS)
    assert found[0].answer == POOL.strip()
    assert subject(NewMemory(POOL), Recipe()) == "Hollin pool"
    assert subject(NewMemory(POOL, title="A pool"), Recipe()) == "A pool"


@pytest.mark.parametrize("text", [TABLE, "# Hollin pool"])
def test_where_there_is_nothing_else_it_is_the_answer(text: str) -> None:
    assert {one.answer for one in examples(NewMemory(text), 0, Recipe())} == {text}


@pytest.mark.parametrize(
    "text",
    [
        "The pool is warm. #summer is over.\nIt is closed - for now.",
        "Either | or.",
        "He came --- and left.\n- one\n- two",
        "One.\n\nTwo.",
    ],
)
def test_other_text_is_prose_as_it_is(text: str) -> None:
    assert prose(text) == text
    assert heading(text) is None


def test_headings() -> None:
    assert heading("## Hollin pool ##\nIt is warm.") == "Hollin pool"
    assert heading("Hollin pool\n===========\nIt is warm.") == "Hollin pool"
    assert prose("Hollin pool\n===========\nIt is warm.").strip() == "It is warm."


@given(st.text(alphabet="aA .!?\"')\n\r。」あ", max_size=40))
def test_a_text_is_parted_as_it_is_split(some: str) -> None:
    for pattern in (_SENTENCE_END, _NEWLINE):
        assert parted(pattern, some) == pattern.split(some)
