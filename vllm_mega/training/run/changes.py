"""What of some memories a bank has already, and what differs: text and recipe train, tags and links never."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from vllm_mega.bank.catalog.known import Known
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.identity import memory_id, text_digest
from vllm_mega.bank.layout import NewMemory

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


def divided(memories: Sequence[NewMemory], known: Mapping[MemoryName, Known], recipe: str) -> Division:
    """`memories` for a bank that knows these, where a recipe of this digest trains."""
    division = Division([], [], [])
    for memory in memories:
        why = _why(memory, known.get(name_of(memory)), recipe)
        if why is None:
            division.there.append(memory)
        else:
            division.missing.append(memory)
            division.why.append(why)
    return division


def fits(known: Known, recipe: str) -> bool:
    """Whether the memory's newest version needs no training by a recipe of this digest."""
    return known.state == "ready" and known.recipe == recipe and not _ran_out(known)


def why_waiting(known: Known) -> Why:
    """Why a memory whose adapter is wanted is trained."""
    if known.adapter is None:
        return "new"
    return "other recipe" if known.answers == known.text_digest else "other text"


def name_of(memory: NewMemory) -> MemoryName:
    """What identifies `memory`, with an id or without one."""
    return MemoryName(memory.namespace, memory_id(memory))


def _why(memory: NewMemory, known: Known | None, recipe: str) -> Why | None:
    """None: there is nothing to train."""
    if known is None or known.adapter is None:
        return "new"
    text, by = known.answers == text_digest(memory), known.recipe == recipe
    if not text:
        return "other text" if by else "other text and recipe"
    if not by:
        return "other recipe"
    return "ran out of time" if _ran_out(known) else None


def _ran_out(known: Known) -> bool:
    """A larger budget, or a quieter machine, may do."""
    return known.training.get("ending") == "out of time"
