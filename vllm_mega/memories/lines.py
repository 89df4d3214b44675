"""Memories as JSON lines, all of them checked before anything is done with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vllm_mega.bank.identity import memory_id
from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import ConfigError
from vllm_mega.jsonl import Reason, decode_lines

_SHOWN_LINES = 5
_SHOWN_REASONS = 10


def read_memories(path: Path) -> list[NewMemory]:
    """The memories of `path`: one JSON object a line, or an array of them. The same memory twice counts once.

    Raises:
        ConfigError: no such file, no memory at all, or lines that are no memory, or another version of one
            that is in the file already: all of them, with their numbers and the reasons.
    """
    memories: dict[tuple[str, str], tuple[int, NewMemory]] = {}
    problems: dict[str, list[int]] = {}
    for number, memory in decode_lines(path, NewMemory):
        if isinstance(memory, Reason):
            problems.setdefault(_explained(memory), []).append(number)
            continue
        key = (memory.namespace, memory_id(memory))
        first, known = memories.setdefault(key, (number, memory))
        if _content(known) != _content(memory):
            reason = (
                f"the memory {key[1]!r} of namespace {memory.namespace!r} is in line {first} already, with "
                "other content; give one of them another id, or drop it"
            )
            problems.setdefault(reason, []).append(number)
    if problems:
        raise ConfigError(f"{path}, " + "\n  ".join(_told(problems)))
    if not memories:
        raise ConfigError(f"{path} holds no memory: expected one JSON object a line, with at least a text")
    return [memory for _, memory in memories.values()]


def _content(memory: NewMemory) -> dict[str, Any]:
    """All fields but the id, which may be left out."""
    return {**msgspec.structs.asdict(memory), "id": None}


def _explained(reason: str) -> str:
    if "unknown field" not in reason:
        return reason
    return f"{reason}; a memory has {', '.join(NewMemory.__struct_fields__)}"


def _told(problems: Mapping[str, Sequence[int]]) -> list[str]:
    """A line for every reason, with the lines that it is about; not more than one can read."""
    told = []
    for reason, numbers in list(problems.items())[:_SHOWN_REASONS]:
        shown = ", ".join(map(str, numbers[:_SHOWN_LINES]))
        more = f" and {len(numbers) - _SHOWN_LINES} more" if len(numbers) > _SHOWN_LINES else ""
        told.append(f"{'lines' if len(numbers) > 1 else 'line'} {shown}{more}: {reason}")
    rest = len(problems) - len(told)
    return [*told, f"and {rest} more reasons"] if rest > 0 else told
