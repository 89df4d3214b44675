"""What a memory is trained on: a fixed pool of examples of prompt and answer. Pure.

Asked what it memorized, the model gives the whole text, word for word. Asked a question, it gives the one
sentence that answers it, whether the text stands in the context (as in the second pass of irag) or not; where
a memory brings questions of its own, it gives their answers. Headings and tables are recited, and answer no
question. docs/training-log.md has what else was tried.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal, NamedTuple

from vllm_mega.bank.layout import NewMemory
from vllm_mega.prompts import MEMORY_PROMPT, Message, about_prompt, irag_messages, question_prompt, user
from vllm_mega.text import heading, prose, sentences
from vllm_mega.training.recipe.questions import Questions
from vllm_mega.training.recipe.recipe import Recipe

Kind = Literal["recall", "question", "informed"]


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


def subject(memory: NewMemory, recipe: Recipe) -> str:
    """What the memory is about: its title or heading, or else the first name in it, or its first words."""
    if title := memory.title or heading(memory.text):
        return title
    names = recipe.english.names(memory.text)
    first = " ".join(memory.text.split()[: recipe.texts.subject])
    return next((name for name in names if " " in name), first)


def examples(memory: NewMemory, seed: int, recipe: Recipe) -> tuple[Example, ...]:
    """The pool of `memory`; the seed decides about the questions."""
    rules = recipe.texts
    text, about = memory.text.strip(), subject(memory, recipe)
    parts = sentences(prose(text)) or sentences(text)
    chance = random.Random(seed)  # noqa: S311  (not a secret)
    questions = Questions(parts, about, memory.paraphrases, chance, recipe)

    def asked(n: int) -> tuple[str, str, int | None]:
        """Question, answer, limit: about every sentence in turn, but for the memory's own questions."""
        if n < rules.own * len(memory.qa):
            qa = memory.qa[n % len(memory.qa)]
            return qa.question, qa.answer, None
        part = n % len(parts)
        return questions.about(part), parts[part], None if chance.random() < rules.whole else rules.limit

    def plain(question: str) -> list[Message]:
        return user(question_prompt(question) if chance.random() < rules.short else question)

    def many(kind: Kind, count: int, ask: Callable[[str], list[Message]], context: str = "") -> list[Example]:
        examples = []
        for n in range(count):
            question, answer, limit = asked(n)
            examples.append(Example(ask(question), answer, kind, limit, context))
        return examples

    return (
        Example(user(MEMORY_PROMPT), text, "recall"),
        Example(user(about_prompt(about)), text, "question"),
        *many("question", rules.questions + rules.own * len(memory.qa), plain),
        *many("informed", rules.informed, lambda question: irag_messages(question, text), text),
    )
