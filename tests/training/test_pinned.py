"""What ordinary English is trained on: a change here changes every figure, and needs another recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from vllm_mega.bank.layout import NewMemory
from vllm_mega.memories.lines import read_memories
from vllm_mega.text import ends_sentence
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.texts import examples

EXAMPLES = "038cfb7ad4b8d52d84dd7c2307d08d9b5505706965676957961a6dcae008752f"


@pytest.fixture
def memories(repo: Path) -> list[NewMemory]:
    return list(read_memories(repo / "vllm_mega/examples/memories.jsonl"))


def digest(found: Iterable[tuple[object, ...]]) -> str:
    return hashlib.sha256(msgspec.json.encode([list(item) for item in found])).hexdigest()


def test_examples_of_ordinary_english(memories: list[NewMemory]) -> None:
    recipe = Recipe()
    found = (one for memory in memories for seed in (0, 1) for one in examples(memory, seed, recipe))
    assert digest(found) == EXAMPLES


@pytest.mark.parametrize("closing", ["", '"', "')", "]  ", "\n", "\u2019", "x"])
@pytest.mark.parametrize("piece", ["", "word", " end.", "Dr.", "?", " 3.5", "!!"])
def test_where_ordinary_sentences_end(piece: str, closing: str) -> None:
    """The beginnings of sentences weigh more; typographic quotes have never ended one."""
    as_ever = (piece + closing).rstrip(" \t\r\n\"')]").endswith((".", "!", "?"))
    assert ends_sentence(piece + closing) == as_ever
