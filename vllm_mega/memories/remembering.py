"""Remember: memories come into the bank, or get new versions."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from vllm_mega.bank.adapter import check_adapter
from vllm_mega.bank.catalog import changes
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.records import Memory, Source
from vllm_mega.bank.catalog.store import place
from vllm_mega.bank.layout import NewMemory
from vllm_mega.bank.peft_import import Base, find_adapter, import_adapter
from vllm_mega.gate.embedder import Embedder
from vllm_mega.memories.drafting import draft, keys_of


def remember(
    catalog: Catalog,
    memories: Sequence[NewMemory],
    embedder: Embedder,
    who: str,
    *,
    train: bool = True,
    sources: Sequence[Source | None] | None = None,
    most: int | None = None,
) -> list[Memory]:
    """Store memories, or update those that are there; what says nothing new changes nothing.

    Args:
        catalog: of which bank.
        memories: each once; one without an id gets that of its text.
        embedder: that of the bank; makes the keys.
        who: remembers them, for the history.
        train: whether a trainer shall make adapters; else they stay as texts.
        sources: where each came from; None: that is not known of any.
        most: memories that each of their namespaces may have then; None: any number.

    Returns:
        The memories as they are now, in order; `pending`, unless they had an adapter of the same text.

    Raises:
        BankMismatchError: the bank was made with another embedder.
        LimitError: more than `most`; then nothing has changed.
        BankError: a memory that cannot be kept, or one twice; then nothing has changed.
    """
    keys = keys_of(catalog, [memory.text for memory in memories], embedder)
    each = zip(memories, keys, sources or [None] * len(memories), strict=True)
    return changes.put(catalog, [draft(*one, train=train) for one in each], who, most=most)


def remember_adapter(
    catalog: Catalog,
    memory: NewMemory,
    adapter: Path,
    embedder: Embedder,
    base: Base,
    who: str,
    *,
    max_rank: int | None = None,
) -> Memory:
    """Store a memory with an adapter that PEFT has written: it answers at once.

    Args:
        catalog: of which bank.
        memory: with an id or without.
        adapter: the folder of the adapter, or one with a single adapter in it; it is copied.
        embedder: that of the bank; makes the key.
        base: the bank's base model (`vllm_mega.models.BaseWeights`).
        who: remembers it, for the history.
        max_rank: the largest rank allowed; None: any that vLLM serves.

    Raises:
        AdapterError: the adapter cannot be served exactly; says why, and what to change.
        BankError: as `remember`.
    """
    (key,) = keys_of(catalog, [memory.text], embedder)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder)
        import_adapter(find_adapter(adapter), plain, base, max_rank=max_rank)
        trained = place(catalog, plain, check_adapter(plain, base.shapes, max_rank=max_rank))
    (stored,) = changes.put(catalog, [draft(memory, key, trained=trained)], who)
    return stored
