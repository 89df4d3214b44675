"""The trainer's input: memories as JSON lines, checked before anything is trained."""

from __future__ import annotations

from pathlib import Path

from vllm_mega.bank.identity import memory_id
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import ConfigError
from vllm_mega.jsonl import read_lines


def read_memories(path: Path) -> list[NewMemory]:
    """The memories of `path`, one JSON object a line; empty lines are passed over.

    Raises:
        ConfigError: no such file, a line that is no memory (with its number and the reason), two lines
            with the same namespace and id, or no memory at all.
    """
    memories: list[NewMemory] = []
    seen: dict[tuple[str, str], int] = {}
    for number, memory in read_lines(path, NewMemory):
        key = (memory.namespace, memory_id(memory))
        if key in seen:
            raise ConfigError(
                f"{path}, line {number}: the memory {key[1]!r} of namespace {key[0]!r} is in line "
                f"{seen[key]} already; give one of them another id, or drop it"
            )
        seen[key] = number
        memories.append(memory)
    if not memories:
        raise ConfigError(f"{path} holds no memory: expected one JSON object a line, with at least a text")
    return memories
