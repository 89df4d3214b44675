"""What counts as right. Pure, deterministic.

As in the paper (arXiv 2504.21239), an answer is right when it contains the gold answer and is at most one
sentence. Where the paper asks a judge, the words of the gold answer, or of an alias, must stand in the
answer one after the other; case, punctuation and white space do not count. The lenient score does without
the limit to one sentence, so that reciting a memory is not taken for answering, and not hidden either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from vllm_mega.text import sentences

Gold = str | tuple[str, ...]
"""A right answer; of several parts: all of them are asked for."""


class Score(NamedTuple):
    """Whether one answer is right."""

    strict: bool
    lenient: bool


def score(reply: str, golds: Sequence[Gold]) -> Score:
    """See above; `golds` are the answer and its aliases."""
    lenient = any(
        all(contains(reply, part) for part in ((gold,) if isinstance(gold, str) else gold)) for gold in golds
    )
    return Score(lenient and in_one_sentence(reply), lenient)


def contains(reply: str, answer: str) -> bool:
    """Whether the words of `answer` stand in `reply`, one after the other; case and punctuation aside."""
    words = _words(answer)
    return bool(words) and f" {words} " in f" {_words(reply)} "


def in_one_sentence(reply: str) -> bool:
    """Whether `reply` is at most one sentence."""
    return len(sentences(reply)) <= 1


def is_exact(reply: str, text: str) -> bool:
    """Whether `reply` is `text`, word for word; only the white space may differ."""
    return reply.split() == text.split()


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
