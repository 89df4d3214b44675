"""What an evaluation reads: memories with questions, prompts that no memory is about, general knowledge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import ConfigError
from vllm_mega.evaluation.scoring import Gold
from vllm_mega.jsonl import read_lines
from vllm_mega.text_file import read_text


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question, and what a right answer contains."""

    question: str
    answer: str
    aliases: tuple[str, ...] = ()
    """Other ways to say the answer."""


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A memory and the questions about it, which no training sees."""

    id: str
    text: str
    title: str = ""
    subject: str = ""
    tags: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()
    qa: tuple[Question, ...] = ()

    @property
    def name(self) -> str:
        """What the memory is about."""
        return self.title or self.subject

    @property
    def questions(self) -> tuple[str, ...]:
        """What is asked about it: its questions, or else one about its name."""
        return tuple(qa.question for qa in self.qa) or (
            f"What do you know about {self.name or self.text[:40]}?",
        )

    @property
    def memory(self) -> NewMemory:
        """What is trained: everything but the questions."""
        return NewMemory(self.text, id=self.id, title=self.name, tags=self.tags, paraphrases=self.paraphrases)


class Prompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt that no memory is about."""

    prompt: str


def read_items(path: Path, limit: int | None = None) -> list[Item]:
    """The memories of `path`, JSONL, the first `limit` of them.

    Raises:
        ConfigError: the file cannot be read, a line is no memory, or two have the same id.
    """
    items = _read(path, Item)[:limit]
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ConfigError(f"{path}: two memories have the id {item.id!r}")
        seen.add(item.id)
    return items


class AskedAbout(Question, frozen=True, forbid_unknown_fields=True):
    """A question in a file of its own."""

    memory_id: str = ""


def add_questions(items: list[Item], path: Path) -> list[Item]:
    """`items` with the questions of `path` added; those about other memories are left out.

    Raises:
        ConfigError: see `read_items`; or none of the questions is about any of `items`.
    """
    asked = _read(path, AskedAbout)
    extended = [
        msgspec.structs.replace(
            item,
            qa=(
                *item.qa,
                *(
                    Question(about.question, about.answer, about.aliases)
                    for about in asked
                    if about.memory_id == item.id
                ),
            ),
        )
        for item in items
    ]
    if all(len(old.qa) == len(new.qa) for old, new in zip(items, extended, strict=True)):
        raise ConfigError(f"{path}: no question is about one of the {len(items)} memories (memory_id)")
    return extended


def read_prompts(path: Path) -> list[str]:
    """The prompts of `path`, JSONL lines {"prompt"}.

    Raises:
        ConfigError: see `read_items`.
    """
    return [line.prompt for line in _read(path, Prompt)]


class Compositional(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question that needs more than one memory."""

    memory_ids: tuple[str, ...]
    question: str
    answer: str | tuple[str, ...]
    """Several: the answer must contain them all."""
    aliases: tuple[str, ...] = ()
    """Other ways to say the whole answer."""

    def __post_init__(self) -> None:
        if len(set(self.memory_ids)) < 2:
            raise ValueError("memory_ids must name two different memories")
        if not self.answer:
            raise ValueError("answer must not be empty")

    @property
    def golds(self) -> tuple[Gold, ...]:
        """What `scoring.score` takes."""
        return (self.answer, *self.aliases)


def read_compositional(path: Path, items: Sequence[Item], *, all_there: bool) -> list[Compositional]:
    """The questions of `path` whose memories are all among `items`.

    Args:
        path: JSONL lines {"memory_ids", "question", "answer", "aliases"?}.
        items: the memories.
        all_there: whether a question about another memory is an error (with --limit it is not).

    Raises:
        ConfigError: see `read_items`; also a question about an unknown memory.
    """
    ids = {item.id for item in items}
    kept = []
    for question in _read(path, Compositional):
        missing = sorted(set(question.memory_ids) - ids)
        if not missing:
            kept.append(question)
        elif all_there:
            raise ConfigError(
                f"{path}: {question.question!r} needs {', '.join(missing)}, which --data has not"
            )
    return kept


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question of general knowledge, with answers to choose from."""

    question: str
    options: tuple[str, ...]
    answer: str

    def __post_init__(self) -> None:
        if self.answer not in self.options or len(set(self.options)) < max(2, len(self.options)):
            raise ValueError("options must be at least two, all different, and the answer one of them")


def read_choices(path: Path) -> list[Choice]:
    """The questions of `path`, JSONL lines {"question", "options", "answer"}.

    Raises:
        ConfigError: see `read_items`.
    """
    return _read(path, Choice)


def read_paragraphs(path: Path) -> list[str]:
    """The paragraphs of a plain text; empty lines stand between them.

    Raises:
        ConfigError: the file cannot be read, is no UTF-8 or has no text.
    """
    text = read_text(path).replace("\r\n", "\n")
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    if not paragraphs:
        raise ConfigError(f"{path} is empty: expected plain text")
    return paragraphs


T = TypeVar("T")


def _read(path: Path, kind: type[T]) -> list[T]:
    values = [value for _, value in read_lines(path, kind)]
    if not values:
        raise ConfigError(f"{path} is empty: expected one JSON object a line")
    return values
