"""The trainer's input: memories as JSON lines, checked before anything is trained."""

from __future__ import annotations

from pathlib import Path

from vllm_mega.bank.identity import memory_id
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import ConfigError
from vllm_mega.jsonl import Reason, decode_lines


def read_memories(path: Path) -> list[NewMemory]:
    """The memories of `path`, one JSON object a line; empty lines are passed over.

    Raises:
        ConfigError: no such file, no memory at all, or lines that are no memory or one that another line is
            already: all of them, with their numbers and the reasons.
    """
    memories: list[NewMemory] = []
    problems: list[str] = []
    seen: dict[tuple[str, str], int] = {}
    for number, memory in decode_lines(path, NewMemory):
        if isinstance(memory, Reason):
            problems.append(f"line {number}: {memory}")
            continue
        key = (memory.namespace, memory_id(memory))
        if key in seen:
            problems.append(
                f"line {number}: the memory {key[1]!r} of namespace {key[0]!r} is in line "
                f"{seen[key]} already; give one of them another id, or drop it"
            )
        seen.setdefault(key, number)
        memories.append(memory)
    if problems:
        raise ConfigError(f"{path}, " + "\n  ".join(problems))
    if not memories:
        raise ConfigError(f"{path} holds no memory: expected one JSON object a line, with at least a text")
    return memories
