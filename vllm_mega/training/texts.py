"""What a memory is trained on: a fixed pool of examples of prompt and answer. Pure.

Asked what it memorized, the model gives the whole text, word for word. Asked a question, it gives the one
sentence that answers it, whether the text stands in the context (as in the second pass of irag) or not; where
a memory brings questions of its own, it gives their answers. Headings and tables are recited, and answer no
question. docs/training-log.md has what else was tried.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from vllm_mega.bank.layout import NewMemory
from vllm_mega.prompts import MEMORY_PROMPT, Message, about_prompt, irag_messages, question_prompt, user
from vllm_mega.text import heading, prose, sentences
from vllm_mega.training.questions import Questions

QUESTIONS = 26
"""Made for a memory, without the text in the context ..."""
INFORMED = 14
"""... and with it."""
LIMIT = 7
"""Tokens of a sentence that are enough to choose it; the recall has all of them."""
WHOLE = 0.25
"""The part of the questions that is answered to the end of the sentence."""
SHORT = 0.65
"""The part of the questions that asks for no more than one sentence, as the paper's prompt does."""
OWN = 4
"""Times that a question of the memory's own comes."""

Kind = Literal["recall", "question", "informed"]
_NAMES = re.compile(r"(?:[A-Z0-9][\w'.-]*)(?:\s+(?:of|the|de|von|van|and)?\s*[A-Z0-9][\w'-]*)*")


class Example(NamedTuple):
    """A conversation and the answer to learn."""

    messages: list[Message]
    answer: str
    kind: Kind
    """The memory word for word, an answer, or an answer with the text in the context."""
    limit: int | None = None
    """Only so many tokens of the answer are learnt; None: all, and that it ends."""
    context: str = ""
    """The text that the conversation begins with: examples share its computation."""


def subject(memory: NewMemory) -> str:
    """What the memory is about: its title or heading, or else the first name in it, or its first words."""
    if title := memory.title or heading(memory.text):
        return title
    names = [match[0] for match in _NAMES.finditer(memory.text)]
    return next((name for name in names if " " in name), " ".join(memory.text.split()[:5]))


def examples(memory: NewMemory, seed: int) -> tuple[Example, ...]:
    """The pool of `memory`; the seed decides about the questions."""
    text, about = memory.text.strip(), subject(memory)
    parts = sentences(prose(text)) or sentences(text)
    chance = random.Random(seed)  # noqa: S311  (not a secret)
    questions = Questions(parts, about, memory.paraphrases, chance)

    def asked(n: int) -> tuple[str, str, int | None]:
        """Question, answer, limit: about every sentence in turn, but for the memory's own questions."""
        if n < OWN * len(memory.qa):
            qa = memory.qa[n % len(memory.qa)]
            return qa.question, qa.answer, None
        part = n % len(parts)
        return questions.about(part), parts[part], None if chance.random() < WHOLE else LIMIT

    def plain(question: str) -> list[Message]:
        return user(question_prompt(question) if chance.random() < SHORT else question)

    def many(kind: Kind, count: int, ask: Callable[[str], list[Message]], context: str = "") -> list[Example]:
        found = []
        for n in range(count):
            question, answer, limit = asked(n)
            found.append(Example(ask(question), answer, kind, limit, context))
        return found

    return (
        Example(user(MEMORY_PROMPT), text, "recall"),
        Example(user(about_prompt(about)), text, "question"),
        *many("question", QUESTIONS + OWN * len(memory.qa), plain),
        *many("informed", INFORMED, lambda question: irag_messages(question, text), text),
    )
