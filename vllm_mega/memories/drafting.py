"""From a memory to what the catalog takes: its id, the digest of what trains it, its key."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.drafts import key_bytes
from vllm_mega.bank.catalog.records import Draft, Source, Trained
from vllm_mega.bank.identity import memory_id, text_digest
from vllm_mega.bank.layout import NewMemory
from vllm_mega.bank.library import check_match
from vllm_mega.gate.embedder import Embedder


def draft(
    memory: NewMemory,
    key: bytes | None,
    source: Source | None = None,
    trained: Trained | None = None,
    *,
    train: bool = True,
) -> Draft:
    """The draft of `memory`; without an id it gets that of its text.

    Args:
        memory: with an id or without.
        key: float32 [D]; None: the gate does not find it.
        source: where the text came from.
        trained: an adapter that `store.place` has placed.
        train: whether a trainer shall make an adapter, where there is none.
    """
    named = msgspec.structs.replace(memory, id=memory_id(memory))
    return Draft(named, text_digest(named), key, source, trained, train)


def keys_of(catalog: Catalog, texts: Sequence[str], embedder: Embedder) -> list[bytes]:
    """The key of each text, as the catalog keeps it: float32 [D].

    Raises:
        BankMismatchError: the bank was made with another embedder.
    """
    check_match(catalog.root, catalog.settings(), None, embedder.info)
    return [key_bytes(np.asarray(key)) for key in embedder.embed(texts)] if texts else []
