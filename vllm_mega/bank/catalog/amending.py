"""Tags and links of memories that are there: what a document says of them beside their texts."""

from __future__ import annotations

from collections.abc import Iterable

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.drafts import draft_of
from vllm_mega.bank.catalog.events import Change, change
from vllm_mega.bank.catalog.reading import find_version
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.catalog.rows import hold
from vllm_mega.bank.catalog.writing import next_version, set_links
from vllm_mega.bank.layout import NewMemory


def amend(catalog: Catalog, memories: Iterable[NewMemory], who: str) -> None:
    """Give the tags of `memories` (with ids), and their links where they have some, to those that are there.

    Nothing is trained; texts stay as they are.

    Raises:
        BankError: the database refuses.
    """
    chosen = sorted(memories, key=lambda memory: (memory.namespace, memory.id))

    def act(changing: Change) -> None:
        for memory in chosen:
            held = hold(changing.connection, MemoryName(memory.namespace, memory.id))
            if held is None:
                continue
            newest = find_version(changing.connection, held.name, held.newest)
            if newest.tags != memory.tags:
                held = next_version(changing, held, draft_of(newest, train=False, tags=memory.tags))
            if memory.links:
                set_links(changing, held, memory.links)

    change(catalog, who, act)
