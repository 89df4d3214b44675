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
from vllm_mega.bank.catalog.drafts import key_bytes
from vllm_mega.bank.catalog.records import BankSettings, Draft, Memory, MemoryName
from vllm_mega.bank.catalog.store import place
from vllm_mega.bank.identity import memory_id, text_digest
from vllm_mega.bank.layout import BaseModelInfo, EmbedderInfo, NewMemory
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
    trained = item.adapter and place(
        catalog,
        item.adapter,
        check_adapter(item.adapter, shapes),
        recipe=item.recipe,
        training=item.training,
    )
    key = None if item.key is None else key_bytes(item.key)
    return Draft(memory, text_digest(memory), key, trained=trained)
