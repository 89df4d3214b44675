"""Examples as token ids, in the model's own chat format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from vllm_mega.errors import ModelError
from vllm_mega.prompts import Message
from vllm_mega.training.texts import Example

DECISIVE = 3
"""So many tokens at the start of a sentence decide which one it becomes ..."""
EMPHASIS = 3.0
"""... and weigh so much; all that follow are easy to guess."""


class Encoded(NamedTuple):
    """An example as token ids."""

    prompt: list[int]
    answer: list[int]
    """Ends with the end token, unless the example is cut short."""
    weights: list[float]
    """Of each token of the answer, in the loss."""


def encode(tokenizer: Any, example: Example, end_ids: Sequence[int]) -> Encoded:
    """`example` in the chat format of `tokenizer`; `end_ids` are the tokens that end an answer.

    Raises:
        ModelError: the tokenizer has no chat template, or one that rewrites the prompt.
    """
    asked = example.messages
    answered: list[Message] = [*asked, {"role": "assistant", "content": example.answer}]
    prompt = _render(tokenizer, asked, add_generation_prompt=True)
    whole = _render(tokenizer, answered, add_generation_prompt=False)
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        raise ModelError("the model's chat template changes the prompt when an answer follows it")
    answer = whole[len(prompt) :]
    end = next((i for i, token in enumerate(answer) if token in end_ids), len(answer))
    answer = [*answer[:end], answer[end] if end < len(answer) else end_ids[0]]
    weights = _weights(tokenizer.convert_ids_to_tokens(answer[:-1]))
    return Encoded(prompt, answer[: example.limit], [*weights, EMPHASIS][: example.limit])


def _weights(tokens: Sequence[str]) -> list[float]:
    """Of the tokens of an answer, without its end: the beginnings of sentences count more."""
    starts = [0] + [n + 1 for n, token in enumerate(tokens) if token[-1:] in ".!?"]
    decisive = {start + n for start in starts for n in range(DECISIVE)}
    return [EMPHASIS if n in decisive else 1.0 for n in range(len(tokens))]


def _render(tokenizer: Any, messages: list[Message], *, add_generation_prompt: bool) -> list[int]:
    if not tokenizer.chat_template:
        raise ModelError("the model has no chat template; memories are trained in the model's chat format")
    out = tokenizer.apply_chat_template(
        messages, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=True
    )
    return list(out["input_ids"])
