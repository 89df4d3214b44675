"""A memory on its way into a bank: its checks, and how it is copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vllm_mega.bank import files
from vllm_mega.bank.adapter import AdapterFacts, adapter_digest
from vllm_mega.bank.catalog.drafts import key_problem
from vllm_mega.bank.identity import encode_content, memory_id, text_digest
from vllm_mega.bank.layout import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MEMORY_FILE,
    Manifest,
    MemoryEntry,
    NewMemory,
)
from vllm_mega.errors import AdapterError, BankError


@dataclass(frozen=True)
class StagedMemory:
    """A memory that is ready to be added."""

    memory: NewMemory
    adapter: Path
    """Folder of a PEFT adapter, in `staging` or anywhere else; it is copied."""
    key: npt.NDArray[np.float32]
    """[D], of unit length."""
    training: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""
    """Digest of the recipe that trained it; empty: it comes from elsewhere."""


def new_entries(
    items: Sequence[StagedMemory], facts: Sequence[AdapterFacts], before: Manifest
) -> list[MemoryEntry]:
    """What the manifest after `before` will say about `items`; links stay unless an item brings its own."""
    links = {entry.key: entry.links for entry in before.memories}
    return [
        _new_entry(item, fact, before.generation + 1, links.get(_key(item), ()))
        for item, fact in zip(items, facts, strict=True)
    ]


def amended(entry: MemoryEntry, **fields: Sequence[str]) -> MemoryEntry:
    """`entry` with other links or tags.

    Raises:
        BankError: they cannot be (see `layout.check_links` and `config.check_tags`).
    """
    try:
        return msgspec.structs.replace(entry, **{name: tuple(value) for name, value in fields.items()})
    except ValueError as error:
        raise BankError(f"memory {entry.namespace}/{entry.id}: {error}") from error


def _key(item: StagedMemory) -> tuple[str, str]:
    return (item.memory.namespace, memory_id(item.memory))


def _new_entry(item: StagedMemory, facts: AdapterFacts, version: int, links: tuple[str, ...]) -> MemoryEntry:
    memory = item.memory
    return MemoryEntry(
        id=memory_id(memory),
        namespace=memory.namespace,
        version=version,
        title=memory.title,
        tags=memory.tags,
        text_digest=text_digest(memory),
        adapter=facts.digest,
        adapter_bytes=facts.bytes,
        rank=facts.rank,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        training=item.training,
        links=memory.links or links,
        recipe=item.recipe,
    )


def refuse_twice(items: Sequence[StagedMemory]) -> None:
    """Refuse to add one memory twice at once: which would win?"""
    seen: set[tuple[str, str]] = set()
    for item in items:
        key = _key(item)
        if key in seen:
            raise BankError(f"the memory {key[0]}/{key[1]} is given twice: give each one once")
        seen.add(key)


def checked_key(item: StagedMemory, dim: int) -> npt.NDArray[np.float32]:
    """The key [D] of `item` as float32, if it can be compared with the others."""
    key = np.asarray(item.key, np.float32)
    problem = key_problem(key, dim)
    if problem:
        raise BankError(f"key of the memory {item.memory.namespace}/{memory_id(item.memory)}: {problem}")
    return key


def write_memory(folder: Path, item: StagedMemory, entry: MemoryEntry) -> None:
    """Copy `item` into the new folder `folder`, durably; refuse it if it is no longer what was checked."""
    files.make_folder(folder)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        files.copy_file(item.adapter / name, folder / name)
    found = adapter_digest(folder)
    if found != entry.adapter:
        raise AdapterError(
            item.adapter,
            expected=f"the adapter that was checked (SHA-256 {entry.adapter})",
            found=found,
            change="It was changed while it was added; add it again",
        )
    files.write_file(folder / MEMORY_FILE, encode_content(item.memory))
    files.sync_folder(folder)
