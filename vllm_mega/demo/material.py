"""What the demo remembers and asks: the invented examples that come with the package.

The questions are kept apart from the memories: no training ever sees them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from vllm_mega.bank.layout import NewMemory

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MEMORIES_FILE = EXAMPLES / "memories.jsonl"
MEMORIES = 6
"""How many of the examples are trained: enough to choose from, and soon done on two cores."""
UNRELATED = 4
"""How many unrelated prompts are compared with the base model."""

T = TypeVar("T")


class Question(msgspec.Struct, frozen=True):
    """A question about one memory, and what a right answer contains."""

    memory_id: str
    question: str
    answer: str


class Prompt(msgspec.Struct, frozen=True):
    """A prompt that no memory is about."""

    prompt: str


class Material(msgspec.Struct, frozen=True):
    """All that the demo uses."""

    memories: list[NewMemory]
    questions: list[Question]
    unrelated: list[str]

    def first_question(self, memory: NewMemory) -> str:
        """The question that makes the gate think of `memory` when it is to be recalled."""
        return next(question.question for question in self.questions if question.memory_id == memory.id)


def load() -> Material:
    """The examples of the package that the demo uses."""
    memories = _read(MEMORIES_FILE, NewMemory)[:MEMORIES]
    ids = {memory.id for memory in memories}
    questions = _read(EXAMPLES / "questions.jsonl", Question)
    return Material(
        memories=memories,
        questions=[question for question in questions if question.memory_id in ids],
        unrelated=[line.prompt for line in _read(EXAMPLES / "unrelated.jsonl", Prompt)[:UNRELATED]],
    )


def _read(file: Path, kind: type[T]) -> list[T]:
    return [msgspec.json.decode(line, type=kind) for line in file.read_bytes().splitlines() if line.strip()]
