"""What of some memories a bank has already, and what differs: text and recipe train, tags and links never."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from vllm_mega.bank.identity import memory_id, text_digest
from vllm_mega.bank.layout import MemoryEntry, NewMemory
from vllm_mega.bank.writer import BankWriter
from vllm_mega.training.recipe import Recipe

Why = Literal["new", "other text", "other recipe", "other text and recipe", "ran out of time"]
"""Why a memory is trained."""


class Division(NamedTuple):
    """Memories, divided by what a bank has of them."""

    missing: list[NewMemory]
    """To be trained ..."""
    why: list[Why]
    """... and why: of each, in order."""
    there: list[NewMemory]
    """Trained on the same text by the same recipe."""


def divided(memories: Sequence[NewMemory], entries: Sequence[MemoryEntry], recipe: Recipe) -> Division:
    """`memories` for a bank with `entries`, where `recipe` (resolved) trains."""
    known = {entry.key: entry for entry in entries}
    digest, found = recipe.digest, Division([], [], [])
    for memory in memories:
        why = _why(memory, known.get(_key(memory)), digest)
        if why is None:
            found.there.append(memory)
        else:
            found.missing.append(memory)
            found.why.append(why)
    return found


def _why(memory: NewMemory, entry: MemoryEntry | None, recipe: str) -> Why | None:
    """None: there is nothing to train."""
    if entry is None:
        return "new"
    text, by = entry.text_digest == text_digest(memory), entry.recipe == recipe
    if not text:
        return "other text" if by else "other text and recipe"
    if not by:
        return "other recipe"
    # A larger budget, or a quieter machine, may do.
    return "ran out of time" if entry.training.get("ending") == "out of time" else None


def amend(writer: BankWriter, memories: Sequence[NewMemory]) -> None:
    """Give memories that the bank has the tags of `memories`, and their links where they name some."""
    there = {entry.key for entry in writer.snapshot.manifest.memories}
    wanted = {_key(memory): _amendable(memory) for memory in memories}
    writer.amend({key: fields for key, fields in wanted.items() if key in there})


def _amendable(memory: NewMemory) -> dict[str, tuple[str, ...]]:
    return {"tags": memory.tags, **({"links": memory.links} if memory.links else {})}


def _key(memory: NewMemory) -> tuple[str, str]:
    return (memory.namespace, memory_id(memory))
