"""Update: a memory says something else from now on."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_mega.bank.catalog import changes
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.drafts import draft_of
from vllm_mega.bank.catalog.reading import get_memory, get_version
from vllm_mega.bank.catalog.records import Memory, MemoryName
from vllm_mega.bank.layout import QA, NewMemory
from vllm_mega.errors import ConfigError
from vllm_mega.gate.embedder import Embedder
from vllm_mega.memories.drafting import draft, keys_of


class Update(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a memory says from now on; None leaves what it says."""

    text: str | None = None
    title: str | None = None
    paraphrases: tuple[str, ...] | None = None
    qa: tuple[QA, ...] | None = None
    tags: tuple[str, ...] | None = None


def update(
    catalog: Catalog, name: MemoryName, wanted: Update, embedder: Embedder, who: str, *, train: bool = True
) -> Memory:
    """Give a memory a new version; the one that answers goes on until the new one has its adapter.

    Args:
        catalog: of which bank.
        name: (namespace, id).
        wanted: what is new; nothing new changes nothing, and tags alone train nothing.
        embedder: that of the bank; makes the key.
        who: changes it, for the history.
        train: whether a trainer shall make an adapter, where there is none.

    Raises:
        MemoryNotFoundError: no such memory.
        ConfigError: what can be no memory, such as an empty text.
        BankError: the memory cannot be kept.
    """
    number = get_memory(catalog, *name).newest
    version = get_version(catalog, *name, number)
    memory = _replaced(draft_of(version, train=train).memory, wanted)
    (key,) = keys_of(catalog, [memory.text], embedder)
    (stored,) = changes.update(catalog, [draft(memory, key, version.source, train=train)], who)
    return stored


def _replaced(memory: NewMemory, wanted: Update) -> NewMemory:
    given: dict[str, Any] = {
        name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not None
    }
    try:
        return msgspec.structs.replace(memory, **given)
    except ValueError as error:
        raise ConfigError(f"memory {memory.namespace}/{memory.id}: {error}") from error
