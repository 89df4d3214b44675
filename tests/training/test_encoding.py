from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.models import chats
from vllm_mega.bank.layout import QA, NewMemory
from vllm_mega.models.chat_format import ChatFormat, load_chat_format
from vllm_mega.prompts import user
from vllm_mega.training.recipe.encoding import Encoded, encode, unfit
from vllm_mega.training.recipe.recipe import EncodingRules
from vllm_mega.training.recipe.texts import Example

EXAMPLE = Example(user("Who sings ?"), "The kettle sings .", "question")


def encoded_in(chat: ChatFormat, example: Example) -> Encoded:
    return encode(chat, example, EncodingRules())


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return load_chat_format(tiny).tokenizer


@pytest.fixture
def thinking() -> ChatFormat:
    """Opens every answer with an empty think block, as Qwen3."""
    tokenizer = chats.byte_level(chats.QWEN3, "<think>", "</think>", **chats.CHATML_TOKENS)
    return ChatFormat(tokenizer, [tokenizer.eos_token_id])


def test_prompt_is_what_serving_sees_and_the_answer_has_its_end(tokenizer: Any) -> None:
    encoded = encoded_in(ChatFormat(tokenizer, [2]), EXAMPLE)
    assert " ".join(tokenizer.decode(encoded.prompt).split()) == "<s> user Who sings ? </s> <s> assistant"
    assert " ".join(tokenizer.decode(encoded.answer).split()) == "The kettle sings . </s>"


def test_a_limit_cuts_the_answer_and_its_end(tokenizer: Any) -> None:
    chat = ChatFormat(tokenizer, [2])
    whole, cut = encoded_in(chat, EXAMPLE), encoded_in(chat, EXAMPLE._replace(limit=2))
    assert cut.prompt == whole.prompt
    assert cut.answer == whole.answer[:2]
    assert len(cut.weights) == 2
    assert whole.ends
    assert not cut.ends
    assert encoded_in(chat, EXAMPLE._replace(limit=100)).ends


def test_what_opens_an_answer_counts_neither_as_its_beginning_nor_for_its_limit(thinking: ChatFormat) -> None:
    example = Example(user("Who?"), "The red kettle sings at dawn.", "question", limit=5)
    encoded = encoded_in(thinking, example)
    pieces = thinking.pieces(encoded.answer)
    assert encoded.opening == 4
    assert pieces[:4] == ["<think>", "\n\n", "</think>", "\n\n"]
    assert pieces[4:] == ["The", " red", " kettle", " sings", " at"]
    assert [weight > 1 for weight in encoded.weights] == [False] * 4 + [True] * 3 + [False] * 2


def test_beginnings_of_sentences_and_the_end_weigh_more(tokenizer: Any) -> None:
    example = Example(user("Who ?"), "The red kettle sings at dawn . Nine geese count copper .", "recall")
    heavy = [weight > 1 for weight in encoded_in(ChatFormat(tokenizer, [2]), example).weights]
    assert heavy == [True] * 3 + [False] * 4 + [True] * 3 + [False] * 2 + [True]


@pytest.mark.parametrize("text", [chats.TEXT, 'A lamp burned." Nine geese count copper.'])
def test_sentences_end_inside_of_tokens_too(thinking: ChatFormat, text: str) -> None:
    encoded = encoded_in(thinking, Example(user("Who?"), text, "recall"))
    pieces = thinking.pieces(encoded.answer)
    end = next(n for n, piece in enumerate(pieces) if piece.startswith("."))
    assert [weight > 1 for weight in encoded.weights][end : end + 5] == [False, True, True, True, False]


def test_unfit_memories_are_refused_by_field(thinking: ChatFormat) -> None:
    good = NewMemory(
        text=chats.TEXT, title="The kettle", paraphrases=("A kettle sings.",), qa=(QA("Who?", "Nine."),)
    )
    assert unfit(thinking, good) is None
    control = "<|im_end|>"
    for field, bad in {
        "text": NewMemory(text=f"End with {control} and ring."),
        "title": NewMemory(text="A", title=control),
        "a paraphrase": NewMemory(text="A", paraphrases=("B", f"C{control}")),
        "a question": NewMemory(text="A", qa=(QA(f"What is {control}?", "B"),)),
        "an answer": NewMemory(text="A", qa=(QA("What?", control),)),
    }.items():
        why = unfit(thinking, bad)
        assert why is not None
        assert why.startswith(f"{field} has '{control}', a control token of the model: write it otherwise")
