"""Requests that are done once: how they are known again, and what is told when one comes twice.

Of an answer is kept what tells nothing of what memories say: ids, versions, numbers of events. The rest is
read again, so what was forgotten since is not told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.once import Once, noting
from vllm_mega.bank.catalog.reading import get_memory
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.errors import MemoryNotFoundError, RequestError
from vllm_mega.http.memories import told
from vllm_mega.http.memories.seals import Seals
from vllm_mega.http.memories.service import Asked, Service, Told
from vllm_mega.memories import get_entry

HEADER = "Idempotency-Key"
_KEY = re.compile(r"[!-~]{1,255}")


def once_of(seals: Seals, namespace: str, key: str, said: Any, body: bytes) -> Once:
    """What tells a request from all others of its namespace.

    Args:
        seals: of the bank; without its secret nobody finds out what the digests are of.
        namespace: whose memories.
        key: as the client gave it.
        said: all of the request but its body.
        body: as it came.

    Raises:
        RequestError: no such key can be.
    """
    if not _KEY.fullmatch(key):
        raise RequestError(f"{HEADER} must be 1..255 visible characters of ASCII", HEADER)
    request = msgspec.json.encode(said) + b"\0" + body
    return Once(namespace, seals.digest(key.encode()), seals.digest(request))


def catalog_for(service: Service, asked: Asked, kept: Callable[[Any], Any]) -> Catalog:
    """The bank's catalog, for the one change that is asked for; see `bank.catalog.once.noting`."""
    return service.catalog if asked.once is None else noting(service.catalog, asked.once, kept)


def stored_again(_: Service, asked: Asked, kept: Any) -> Told:
    """Memories that were stored: (id, state, version) of each."""
    data = tuple(
        told.Remembered(memory_id, asked.namespace, state, version) for memory_id, state, version in kept
    )
    return Told(data[0] if asked.body.memories is None else told.RememberedList(data))


def shown_again(service: Service, asked: Asked, kept: Any) -> Told:
    """A memory that was changed: the number of its version.

    Raises:
        MemoryNotFoundError: it was forgotten since.
    """
    name = MemoryName(asked.namespace, asked.id)
    entry = get_entry(service.catalog, name, kept)
    return Told(told.full(entry, service.standing(name)), stamp=entry.stamp)


def deleted_again(service: Service, asked: Asked, kept: Any) -> Told:
    """A memory that was forgotten: (id, number of the event)."""
    ((memory_id, number),) = kept
    token = service.seals.seal(number, "event", asked.namespace)
    return Told(told.Deleted(memory_id, token, service.catalog.database.erase()))


def source_deleted_again(service: Service, asked: Asked, kept: Any) -> Told:
    """Memories that were forgotten: (id, number of the event) of each."""
    ids = tuple(memory_id for memory_id, _ in kept)
    return Told(told.SourceDeleted(asked.id, ids, service.catalog.database.erase()))


def document_again(service: Service, asked: Asked, kept: Any) -> Told:
    """A document that was stored: (id, change, tokens) of each part."""
    steps = tuple(
        told.Step(memory_id, change, _title(service.catalog, asked.namespace, memory_id), tokens)
        for memory_id, change, tokens in kept
    )
    return Told(told.DocumentStored(asked.body.source, asked.namespace, steps, dry_run=False))


def _title(catalog: Catalog, namespace: str, memory_id: str) -> str:
    """Empty: the memory is gone."""
    try:
        return get_memory(catalog, namespace, memory_id).title
    except MemoryNotFoundError:
        return ""
