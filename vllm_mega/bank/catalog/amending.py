"""Tags, links and expiration of memories that are there: what a document says of them beside their texts."""

from __future__ import annotations

from collections.abc import Iterable

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.drafts import draft_of
from vllm_mega.bank.catalog.events import Change, change
from vllm_mega.bank.catalog.keeping import keep
from vllm_mega.bank.catalog.reading import find_version
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.catalog.rows import hold
from vllm_mega.bank.catalog.writing import next_version, set_links
from vllm_mega.bank.layout import NewMemory


def amend(catalog: Catalog, memories: Iterable[NewMemory], who: str) -> None:
    """Give those that are there the tags of `memories` (with ids), and links and expiration where told.

    Nothing is trained; texts stay as they are.

    Raises:
        BankError: the database refuses.
    """
    chosen = list(memories)
    change(catalog, who, lambda changing: amend_all(changing, chosen))


def amend_all(changing: Change, memories: Iterable[NewMemory]) -> None:
    """As `amend`, inside a transaction."""
    for memory in sorted(memories, key=lambda memory: (memory.namespace, memory.id)):
        held = hold(changing.connection, MemoryName(memory.namespace, memory.id))
        if held is None:
            continue
        newest = find_version(changing.connection, held.name, held.newest)
        if newest.tags != memory.tags:
            held = next_version(changing, held, draft_of(newest, train=False, tags=memory.tags))
        if memory.links:
            set_links(changing, held, memory.links)
        if memory.expires is not None:
            keep(changing, held, expires=memory.expires)
