"""Invented drafts and adapters for tests of the catalog."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from tests.bank.samples import SHAPES, key, write_adapter
from vllm_mega.bank.adapter import check_adapter
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.drafts import key_bytes
from vllm_mega.bank.catalog.records import Draft, MemoryName, Source, Trained
from vllm_mega.bank.catalog.store import place
from vllm_mega.bank.layout import NewMemory

WHO = "tester"


def draft(
    memory_id: str = "lamp",
    nights: int = 1,
    *,
    source: Source | None = None,
    train: bool = True,
    trained: Trained | None = None,
    **fields: Any,
) -> Draft:
    """The memory `memory_id`; `nights` decides its text and its key."""
    memory = NewMemory(f"The lamp of {memory_id} burns {nights} nights.", id=memory_id, **fields)
    parts = [memory.text, memory.title, memory.paraphrases, memory.qa]
    digest = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
    return Draft(memory, digest, key_bytes(key(nights)), source, trained, train)


def name(memory_id: str = "lamp", namespace: str = "default") -> MemoryName:
    return MemoryName(namespace, memory_id)


def placed(catalog: Catalog, folder: Path, seed: int = 1, **more: Any) -> Trained:
    """An adapter that `seed` decides, in the bank."""
    source = write_adapter(folder / f"adapter-{seed}", seed)
    return place(catalog, source, check_adapter(source, SHAPES), **more)
