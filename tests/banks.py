"""How a test makes a bank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tests.bank.samples import BASE, EMBEDDER, SHAPES
from vllm_mega.bank.adapter import check_adapter
from vllm_mega.bank.catalog import changes, forgetting
from vllm_mega.bank.catalog.catalog import BANK_FILE, Catalog, create_catalog, open_catalog
from vllm_mega.bank.catalog.check import Problem, check
from vllm_mega.bank.catalog.drafts import key_bytes
from vllm_mega.bank.catalog.events import events_after
from vllm_mega.bank.catalog.reading import history
from vllm_mega.bank.catalog.records import BankSettings, Draft, Memory, MemoryName, Row, Version
from vllm_mega.bank.catalog.store import place
from vllm_mega.bank.identity import memory_id, text_digest
from vllm_mega.bank.layout import BaseModelInfo, EmbedderInfo, NewMemory
from vllm_mega.bank.library import Library
from vllm_mega.bank.lora_tensors import Shapes

WHO = "tester"


@dataclass(frozen=True)
class Item:
    """A memory on its way into a bank."""

    memory: NewMemory
    adapter: Path | None = None
    """PEFT folder, that is copied; None: the memory is pending."""
    key: npt.NDArray[np.float32] | None = None
    """[D], of unit length."""
    training: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""
    """Digest; empty: trained elsewhere."""


def make_bank(
    root: Path | str,
    items: Sequence[Item] = (),
    *,
    base: BaseModelInfo = BASE,
    embedder: EmbedderInfo = EMBEDDER,
    shapes: Shapes = SHAPES,
    url: str | None = None,
) -> list[Memory]:
    """Add or update memories in one change; the bank is made if there is none. The memories, in order."""
    with _open(Path(root), BankSettings(base, embedder), url) as catalog:
        return changes.put(catalog, [_draft(catalog, item, shapes) for item in items], WHO)


def forget(root: Path | str, *names: tuple[str, str], url: str | None = None) -> None:
    """Forget the memories (namespace, id)."""
    with open_catalog(root, url) as catalog:
        forgetting.forget(catalog, [MemoryName(*name) for name in names], WHO)


def _open(root: Path, settings: BankSettings, url: str | None) -> Catalog:
    if (root / BANK_FILE).exists():
        return open_catalog(root, url)
    return create_catalog(root, settings, url)


def _draft(catalog: Catalog, item: Item, shapes: Shapes) -> Draft:
    memory = msgspec.structs.replace(item.memory, id=memory_id(item.memory))
    trained = (
        None
        if item.adapter is None
        else place(
            catalog,
            item.adapter,
            check_adapter(item.adapter, shapes),
            recipe=item.recipe,
            training=item.training,
        )
    )
    key = None if item.key is None else key_bytes(item.key)
    return Draft(memory, text_digest(memory), key, trained=trained)


def adapters(root: Path | str) -> dict[str, str | None]:
    """By id, the adapter of every memory that has one."""
    with Library(root) as library:
        return {row.id: row.adapter for row in library.rows.values() if row.adapter}


def newest(root: Path | str, memory_id: str, namespace: str = "default") -> Version:
    """The newest version of a memory."""
    with open_catalog(root) as catalog:
        return history(catalog, namespace, memory_id)[0]


def row(root: Path | str, memory_id: str, namespace: str = "default") -> Row:
    """What a reader sees of a memory."""
    with Library(root) as library:
        return library.get(namespace, memory_id)


def last_event(root: Path | str) -> int:
    """The number of the bank's last event."""
    with Library(root) as library:
        return library.event


def events(root: Path | str) -> list[tuple[str, str]]:
    """Of every event the memory's id and what became of it, in order."""
    with open_catalog(root) as catalog:
        return [(event.id, event.kind) for event in events_after(catalog, 0)]


def problems(root: Path | str, shapes: Shapes | None = SHAPES) -> list[Problem]:
    """What is wrong with the bank."""
    with open_catalog(root) as catalog:
        return check(catalog, shapes)
