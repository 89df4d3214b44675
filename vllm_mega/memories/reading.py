"""Entries and history: what a memory says, what it said, and what happened to it."""

from __future__ import annotations

import msgspec

from vllm_mega.bank.catalog import reading
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.events import events_of, find_stamp
from vllm_mega.bank.catalog.records import Event, Memory, MemoryName, Version
from vllm_mega.errors import MemoryNotFoundError


class Entry(msgspec.Struct, frozen=True):
    """A memory with its text."""

    memory: Memory
    version: Version
    links: tuple[str, ...]
    """Ids that it links to, in order."""
    stamp: int
    """See `bank.catalog.events.find_stamp`: who changes the memory can ask that it still has it."""


class History(msgspec.Struct, frozen=True):
    """All that is known of a memory's past."""

    versions: tuple[Version, ...]
    """The newest first; none, when it was forgotten."""
    events: tuple[Event, ...]
    """The first first."""


def get_entry(catalog: Catalog, name: MemoryName, number: int | None = None) -> Entry:
    """A memory, and the text of its newest version or of version `number`.

    Raises:
        MemoryNotFoundError: no such memory, or no such version of it.
    """
    with catalog.database.read() as connection:
        memory = reading.find_memory(connection, name)
        version = reading.find_version(connection, name, memory.newest if number is None else number)
        return Entry(memory, version, reading.find_links_of(connection, name), find_stamp(connection, name))


def history(catalog: Catalog, name: MemoryName) -> History:
    """All versions of a memory with their texts, and all events; of a forgotten one the events alone.

    Raises:
        MemoryNotFoundError: there never was such a memory.
    """
    events = tuple(events_of(catalog, *name))
    try:
        return History(tuple(reading.history(catalog, *name)), events)
    except MemoryNotFoundError:
        if not events:
            raise
        return History((), events)
