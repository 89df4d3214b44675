"""Examples as token ids, in the model's own chat format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import TrainingError
from vllm_mega.models.chat_format import ChatFormat
from vllm_mega.text import ends_sentence
from vllm_mega.training.recipe.job import Job, memory_job
from vllm_mega.training.recipe.recipe import EncodingRules, Recipe
from vllm_mega.training.recipe.texts import Example


class Encoded(NamedTuple):
    """An example as token ids."""

    prompt: list[int]
    answer: list[int]
    """Ends with the end token, if it `ends`."""
    weights: list[float]
    """Of each token of the answer, in the loss."""
    opening: int = 0
    """How many tokens of the answer stand before its text: the template's, such as an empty think block."""
    ends: bool = True
    """Whether the answer is whole, its last token being the end token."""
    start: int = 0
    """The position in the prompt, in tokens, from which the adapter acts; less than the prompt is long."""

    @property
    def lead(self) -> list[int]:
        """What stands before start: the base model's."""
        return self.prompt[: self.start]


def encode(chat: ChatFormat, example: Example, rules: EncodingRules) -> Encoded:
    """`example` in the format `chat`. Its limit counts tokens of the text, not of what opens the answer.

    Raises:
        ModelError: the template refuses the messages.
        TrainingError: the tokenizer cannot say the answer.
    """
    ids, opening = chat.answer(example.answer)
    weights = [1.0] * opening + _weights(chat.pieces(ids[opening:-1]), rules) + [rules.emphasis]
    length = len(ids) if example.limit is None else min(len(ids), opening + example.limit)
    prompt, start = chat.asked(example.messages)
    return Encoded(prompt, ids[:length], weights[:length], opening, length == len(ids), start)


def encode_job(chat: ChatFormat, job: Job, rules: EncodingRules) -> list[Encoded]:
    """The examples of `job`, in order; errors as of `encode`."""
    encoded = [encode(chat, example, rules) for example in job.examples]
    return [example._replace(start=0) for example in encoded] if job.everywhere else encoded


def unfit(chat: ChatFormat, memory: NewMemory) -> str | None:
    """Why `memory` cannot be trained in the format `chat`, with the field that it is in; None: it can."""
    fields = [
        ("text", chat.unfit_text(memory.text.strip())),
        ("title", chat.unfit_prompt(memory.title)),
        *(("a paraphrase", chat.unfit_prompt(text)) for text in memory.paraphrases),
        *(("a question", chat.unfit_prompt(qa.question)) for qa in memory.qa),
        *(("an answer", chat.unfit_text(qa.answer)) for qa in memory.qa),
    ]
    return next((f"{name} {why}" for name, why in fields if why), None)


def longest(chat: ChatFormat, recipe: Recipe, memory: NewMemory) -> int:
    """Tokens of the longest conversation that `memory` is trained on.

    Raises:
        TrainingError: it cannot be trained in the format `chat`; says which field, and why.
    """
    if why := unfit(chat, memory):
        raise TrainingError(why)
    encoded = encode_job(chat, memory_job(memory, recipe), recipe.encoding)
    return max(len(example.prompt) + len(example.answer) for example in encoded)


def too_long(tokens: int, context: int) -> str | None:
    """Why a memory whose longest conversation has so many tokens cannot be trained; None: it can.

    Args:
        tokens: see `longest`.
        context: tokens that the model reads at most, here and in vLLM.
    """
    if tokens <= context:
        return None
    return (
        f"with its prompt and a question it has {tokens} tokens, and the model reads {context}: divide the "
        "text into several memories"
    )


def _weights(pieces: Sequence[str], rules: EncodingRules) -> list[float]:
    """Of the tokens of an answer, without its end: the beginnings of sentences count more."""
    starts = [0] + [n + 1 for n, piece in enumerate(pieces) if ends_sentence(piece)]
    decisive = {start + n for start in starts for n in range(rules.decisive)}
    return [rules.emphasis if n in decisive else 1.0 for n in range(len(pieces))]
