from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from vllm_mega.errors import ModelError
from vllm_mega.prompts import user
from vllm_mega.training.encoding import encode
from vllm_mega.training.texts import Example

EXAMPLE = Example(user("Who sings ?"), "The kettle sings .", "question")


@pytest.fixture
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


def test_prompt_is_what_serving_sees_and_the_answer_has_its_end(tokenizer: Any) -> None:
    encoded = encode(tokenizer, EXAMPLE, [2])
    assert " ".join(tokenizer.decode(encoded.prompt).split()) == "<s> user Who sings ? </s> <s> assistant"
    assert " ".join(tokenizer.decode(encoded.answer).split()) == "The kettle sings . </s>"


def test_an_end_token_is_added_where_the_template_has_none(tokenizer: Any) -> None:
    tokenizer.chat_template = tokenizer.chat_template.replace("</s>", "")
    assert encode(tokenizer, EXAMPLE, [2, 1]).answer[-2:] == [tokenizer.convert_tokens_to_ids("."), 2]


def test_what_follows_the_end_is_left_out(tokenizer: Any) -> None:
    tokenizer.chat_template = tokenizer.chat_template.replace("</s>", "</s> at dawn ")
    assert encode(tokenizer, EXAMPLE, [2]).answer[-1] == 2


def test_templates_that_cannot_be_trained_on(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    with pytest.raises(ModelError, match="changes the prompt"):
        encode(tokenizer, EXAMPLE, [2])
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        encode(tokenizer, EXAMPLE, [2])


def test_a_limit_cuts_the_answer_and_its_end(tokenizer: Any) -> None:
    whole = encode(tokenizer, EXAMPLE, [2])
    cut = encode(tokenizer, EXAMPLE._replace(limit=2), [2])
    assert cut.prompt == whole.prompt
    assert cut.answer == whole.answer[:2]
    assert len(cut.weights) == 2


def test_beginnings_of_sentences_and_the_end_weigh_more(tokenizer: Any) -> None:
    example = Example(user("Who ?"), "The red kettle sings at dawn . Nine geese count copper .", "recall")
    heavy = [weight > 1 for weight in encode(tokenizer, example, [2]).weights]
    assert heavy == [True] * 3 + [False] * 4 + [True] * 3 + [False] * 2 + [True]
