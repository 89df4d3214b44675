"""What is done with memories: remembered, changed, brought back, forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_mega.bank.catalog.forgetting import Forgotten
from vllm_mega.bank.catalog.records import Memory, MemoryName
from vllm_mega.http.memories import told
from vllm_mega.http.memories.items import items_of, memory_of, size_of, sources_of
from vllm_mega.http.memories.receipts import signed
from vllm_mega.http.memories.repeating import catalog_for
from vllm_mega.http.memories.service import Asked, Service, Told
from vllm_mega.memories import forget, get_entry, remember, restore, update
from vllm_mega.memories.documents.remembering import forget_source
from vllm_mega.memories.receipts.key import bank_key


def add(service: Service, asked: Asked) -> Told:
    """Remember one memory or many; they answer as texts at once.

    Raises:
        RequestError: what can be no memory.
        DraftError: what cannot be kept; then nothing has changed.
        LimitError: more than the namespace may have, or too fast.
    """
    body, several = asked.body, asked.body.memories is not None
    items = items_of(body)
    memories = [
        memory_of(item, asked.namespace, f"memories[{n}]." if several else "") for n, item in enumerate(items)
    ]
    limits = service.limits_of(asked.namespace)
    for item in items:
        limits.check_size(size_of(item))
    service.take(asked.namespace, len(items))
    catalog = catalog_for(
        service, asked, lambda stored: [(memory.id, memory.state, memory.newest) for memory in stored]
    )
    stored = remember(
        catalog, memories, service.embedder, asked.who,
        train=body.train, sources=sources_of(items), most=limits.memories,
    )  # fmt: skip
    ids = tuple(memory.id for memory in stored)
    data = tuple(map(told.remembered, stored))
    return Told(told.RememberedList(data) if several else data[0], ids)


def change(service: Service, asked: Asked) -> Told:
    """Give a memory a new version, other links, a pin, a time to expire at, or retire it.

    Raises:
        MemoryNotFoundError: no such memory.
        MemoryChangedError: somebody has changed it meanwhile.
        ConfigError, DraftError: what cannot be kept.
    """
    name = MemoryName(asked.namespace, asked.id)
    service.limits_of(asked.namespace).check_size(size_of(asked.body))
    service.take(asked.namespace, 1)
    update(
        catalog_for(service, asked, _newest), name, asked.body, service.embedder, asked.who,
        train=asked.body.train, stamp=asked.stamp,
    )  # fmt: skip
    return _now(service, name)


def bring_back(service: Service, asked: Asked) -> Told:
    """Make an earlier version of a memory the newest.

    Raises:
        MemoryNotFoundError: no such memory, or no such version.
        MemoryChangedError: somebody has changed it meanwhile.
    """
    name, body = MemoryName(asked.namespace, asked.id), asked.body
    service.take(asked.namespace, 1)
    catalog = catalog_for(service, asked, _newest)
    restore(catalog, name, body.version, asked.who, train=body.train, stamp=asked.stamp)
    return _now(service, name)


def drop(service: Service, asked: Asked) -> Told:
    """Forget a memory.

    Raises:
        MemoryNotFoundError: no such memory.
        MemoryChangedError: somebody has changed it meanwhile.
    """
    name = MemoryName(asked.namespace, asked.id)
    service.take(asked.namespace, 1)
    stamps = {} if asked.stamp is None else {name: asked.stamp}
    key = bank_key(service.catalog) if asked.query.receipt else None
    receipt = forget(catalog_for(service, asked, _gone), [name], asked.who, stamps=stamps)
    if key is not None:
        return Told(signed(service, receipt, key), (asked.id,))
    (event,) = receipt.events
    token = service.seals.seal(event.number, "event", asked.namespace)
    return Told(told.Deleted(asked.id, token, receipt.erased), (asked.id,))


def drop_source(service: Service, asked: Asked) -> Told:
    """Forget all memories of the namespace that came from a source.

    Raises:
        MemoryNotFoundError: none came from it.
    """
    service.take(asked.namespace, 1)
    key = bank_key(service.catalog) if asked.query.receipt else None
    receipt = forget_source(catalog_for(service, asked, _gone), asked.id, asked.who, asked.namespace)
    ids = tuple(event.id for event in receipt.events)
    if key is not None:
        return Told(signed(service, receipt, key), ids)
    return Told(told.SourceDeleted(asked.id, ids, receipt.erased), ids)


def _newest(memory: Memory) -> int:
    return memory.newest


def _gone(forgotten: Sequence[Forgotten]) -> list[tuple[str, int]]:
    return [(memory.event.id, memory.event.number) for memory in forgotten]


def _now(service: Service, name: MemoryName) -> Told:
    entry = get_entry(service.catalog, name)
    return Told(told.full(entry, service.standing(name)), (name.id,), entry.stamp)
