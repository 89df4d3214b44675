"""A model whose answers are known, and a bank of three invented memories with questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.gate.banks import CHESS, FERRY, KILN, add, open_gate
from vllm_mega.config import GateSettings
from vllm_mega.evaluation.data import Item, Question
from vllm_mega.evaluation.model import Likelihood, Reply, Text
from vllm_mega.evaluation.study import Subject
from vllm_mega.gate.embedder import FakeEmbedder

MEMORIES = (KILN, FERRY, CHESS)
SETTINGS = GateSettings(top_k=2, threshold=0.3)
FORGOT = "Nothing comes to mind."


class Reciter:
    """Recites the heaviest memory that it is given, or what a plain adapter is said to know.

    With neither it says the first word of what it is asked. A text is the less probable the more words it
    has, and any memory costs one nat more.
    """

    def __init__(self, texts: Mapping[str, str], adapters: Mapping[Path, str] | None = None) -> None:
        self.texts = texts
        self.adapters = adapters or {}
        self.asked: list[tuple[str, Any]] = []
        self.calls = 0

    def ask(self, conversations: Sequence[Any], how: Sequence[Any], max_tokens: int) -> list[Reply]:
        self.calls += 1
        found = []
        for (message,), one in zip(conversations, how, strict=True):
            self.asked.append((message["content"], one))
            if isinstance(one, Path):
                text = self.adapters.get(one, FORGOT)
            elif one.get("memories"):
                text = self.texts[max(one["memories"], key=lambda memory: memory["weight"])["id"]]
            else:
                text = message["content"].split()[0]
            found.append(Reply(text, tuple(text.encode())))
        return found

    def likelihoods(self, texts: Sequence[Text], how: Sequence[Any]) -> list[Likelihood]:
        found = []
        for text, one in zip(texts, how, strict=True):
            self.asked.append((text.before + text.text, one))
            tokens = len(text.text.split())
            touched = isinstance(one, Path) or bool(one.get("memories"))
            found.append(Likelihood(-2.0 * tokens - touched, tokens))
        return found


def items() -> list[Item]:
    """The question of a memory is its own text, the answer its first word."""
    return [
        Item(memory.id, memory.text, qa=(Question(memory.text, memory.text.split()[0]),))
        for memory in MEMORIES
    ]


def subject(folder: Path, adapters: Mapping[Path, str] | None = None, **rest: Any) -> Subject:
    """A bank of `MEMORIES` in `folder`, a gate over it, and a `Reciter`."""
    embedder = FakeEmbedder()
    add(folder, embedder, MEMORIES)
    model = Reciter({memory.id: memory.text for memory in MEMORIES}, adapters)
    gate = open_gate(folder, embedder)
    return Subject(gate.library, gate, SETTINGS, embedder, model, base_bytes=10**6, **rest)


def contained(_question: str, golds: Sequence[str], reply: str) -> bool:
    """A judge."""
    return any(gold in reply for gold in golds)
