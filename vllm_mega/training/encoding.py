"""Examples as token ids, in the model's own chat format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vllm_mega.errors import ModelError
from vllm_mega.prompts import Message
from vllm_mega.training.texts import Example

IGNORE = -100


class Encoded(NamedTuple):
    """Token ids of prompt and answer; the answer ends with the end token."""

    prompt: list[int]
    answer: list[int]


class Batch(NamedTuple):
    """Encoded examples, padded on the right: under causal attention, padding needs no mask."""

    ids: Tensor
    """int64 [N, T]"""
    labels: Tensor
    """int64 [N, T]: the token that should come next where that is part of an answer, else -100."""


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
    return Encoded(prompt, [*answer[:end], answer[end] if end < len(answer) else end_ids[0]])


def _render(tokenizer: Any, messages: list[Message], *, add_generation_prompt: bool) -> list[int]:
    if not tokenizer.chat_template:
        raise ModelError("the model has no chat template; memories are trained in the model's chat format")
    out = tokenizer.apply_chat_template(
        messages, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=True
    )
    return list(out["input_ids"])


def collate(items: Sequence[Encoded], pad_id: int) -> Batch:
    """One batch of all `items`; the last token of an answer is predicted, never read."""
    rows = [(item.prompt + item.answer[:-1], len(item.prompt) - 1, item.answer) for item in items]
    width = max(len(ids) for ids, _, _ in rows)
    ids = torch.full((len(rows), width), pad_id)
    labels = torch.full((len(rows), width), IGNORE)
    for n, (row, start, answer) in enumerate(rows):
        ids[n, : len(row)] = torch.tensor(row)
        labels[n, start : start + len(answer)] = torch.tensor(answer)
    return Batch(ids, labels)
