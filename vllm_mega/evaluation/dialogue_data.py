"""Dialogues and the memories that belong to their turns, from JSON lines: ours, or MADial-Bench's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from vllm_mega.bank.identity import memory_id
from vllm_mega.bank.layout import NewMemory
from vllm_mega.config import DEFAULT_NAMESPACE
from vllm_mega.errors import ConfigError
from vllm_mega.jsonl import read_lines
from vllm_mega.memories.lines import read_memories
from vllm_mega.prompts import Message

ASSISTANT = "Assistant"
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "OpenAI text-embedding-3-large": {"1": 0.368, "5": 0.695, "10": 0.806},
    "BGE-M3": {"1": 0.279, "5": 0.553, "10": 0.705},
    "GTE-large-en-v1.5": {"1": 0.271, "5": 0.525, "10": 0.657},
    "Jina v2 base en": {"1": 0.213, "5": 0.448, "10": 0.622},
}
"""MADial-Bench, English: recall at k, from the rankings that its authors published (arXiv 2409.15240)."""

_SPOKEN = re.compile(r"\s*<(\w+)>:\s*(.*)", re.DOTALL)
_MARKS = ("<BOD>", "<EOD>")


@dataclass(frozen=True)
class Turn:
    """A point of a dialogue at which an answer is due."""

    messages: Sequence[Message]
    """All that was said before the answer, the oldest first."""
    relevant: frozenset[str]
    """Ids of the memories that the answer should use; at least one."""
    namespace: str
    dialogue: int
    """Number of the dialogue, from 0."""
    first: bool
    """Whether it is the first such turn of its dialogue."""


@dataclass(frozen=True)
class Material:
    """What is measured."""

    memories: Sequence[NewMemory]
    turns: Sequence[Turn]
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What others reach on the same data: recall at k, by name and k."""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    messages: list[Message]
    relevant: list[str]
    namespace: str = DEFAULT_NAMESPACE


class _MadialLine(msgspec.Struct, rename="kebab"):
    dialogue: list[str]
    test_turn: list[int]
    relevant_id: list[int]
    user_id: int


def read(memories: Path, dialogues: Path) -> Material:
    """The material of two files of JSON lines.

    Ours: memories as `vllm-mega train` takes them; dialogues as `{"messages", "relevant": [ids],
    "namespace"?}`, a line for each turn. Or those of MADial-Bench: `{"1": {"event", ...}}`, and
    `{"dialogue", "test-turn", "relevant-id", "user-id"}`.

    Raises:
        ConfigError: a file or a line that is neither, or turns without memories; the message says which.
    """
    lines = [line for _, line in read_lines(dialogues, dict[str, Any])]
    if not lines:
        raise ConfigError(f"{dialogues} holds no dialogue: expected one JSON object a line")
    if all("user-id" in line for line in lines):
        return _madial(memories, dialogues)
    turns = [
        Turn(line.messages, frozenset(line.relevant), line.namespace, number, first=True)
        for number, (_, line) in enumerate(read_lines(dialogues, _Line))
    ]
    return _checked(Material(read_memories(memories), turns), memories, dialogues)


def _checked(material: Material, memories: Path, dialogues: Path) -> Material:
    known = {(memory.namespace, memory_id(memory)) for memory in material.memories}
    for turn in material.turns:
        missing = sorted(name for name in turn.relevant if (turn.namespace, name) not in known)
        if missing or not turn.relevant:
            what = f"the memories {', '.join(missing)}" if missing else "no memory at all"
            raise ConfigError(
                f"{dialogues}, dialogue {turn.dialogue}: expected memories of {memories} in namespace "
                f"{turn.namespace!r}, found {what}"
            )
    return material


def _madial(memories: Path, dialogues: Path) -> Material:
    """A user is called in the dialogues as in the memories, which is how one finds whose a memory is."""
    lines = [line for _, line in read_lines(dialogues, _MadialLine)]
    names = _users(lines)
    read = [
        NewMemory(text=fields["event"], id=name, namespace=_owner(fields["event"], names.values(), memories))
        for _, line in read_lines(memories, dict[str, dict[str, str]])
        for name, fields in line.items()
    ]
    turns = [
        Turn(
            list(_messages(line.dialogue[:end])),
            frozenset(map(str, line.relevant_id)),
            names[line.user_id],
            number,
            first=end == min(line.test_turn),
        )
        for number, line in enumerate(lines)
        for end in line.test_turn
    ]
    return _checked(Material(read, turns, PUBLISHED), memories, dialogues)


def _users(lines: Sequence[_MadialLine]) -> dict[int, str]:
    """Who the users are: who speaks most in their dialogues, beside the assistant."""
    spoken: dict[int, list[str]] = {}
    for line in lines:
        speakers = [match.group(1) for match in map(_SPOKEN.match, line.dialogue) if match]
        spoken.setdefault(line.user_id, []).extend(name for name in speakers if name != ASSISTANT)
    for user, said in spoken.items():
        if not said:
            raise ConfigError(f"user {user} never speaks: expected lines like '<Name>: ...'")
    return {user: max(sorted(set(said)), key=said.count) for user, said in spoken.items()}


def _owner(event: str, names: Iterable[str], file: Path) -> str:
    owners = sorted({name for name in names if name in event})
    if len(owners) != 1:
        raise ConfigError(f"{file}: expected the name of one user in {event!r}, found {owners or 'none'}")
    return owners[0]


def _messages(lines: Sequence[str]) -> Iterator[Message]:
    """Lines as messages, without names, marks and quotes; a line without a name is the other's."""
    role = "assistant"
    for line in lines:
        if line.strip() in _MARKS:
            continue
        match = _SPOKEN.match(line)
        speaker = match.group(1) if match else "user" if role == "assistant" else ASSISTANT
        role = "assistant" if speaker == ASSISTANT else "user"
        text = (match.group(2) if match else line).strip().strip('"<>').strip()
        yield {"role": role, "content": text}
