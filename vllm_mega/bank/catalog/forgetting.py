"""Forgetting: what is gone from the catalog is gone from the disk, too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec
import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.events import Change, require_stamp
from vllm_mega.bank.catalog.records import Event, MemoryName, text_name
from vllm_mega.bank.catalog.store import adapter_folder, remove_free
from vllm_mega.bank.catalog.tables import jobs, memories, versions


class ForgottenVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version that is gone, by digests (SHA-256, hex)."""

    number: int
    text: str
    """`bank.identity.text_digest`. Whoever guesses all that trained it can find the guess confirmed."""
    key: str
    """Of the bytes of its key; empty: it had none."""
    adapter: str
    """`bank.adapter.adapter_digest`; empty: it had none."""


class Forgotten(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A memory that is gone."""

    event: Event
    """Stays in the catalog: whose memory, who forgot it, when."""
    row: int
    """Its number in the catalog, which no other memory ever gets."""
    versions: tuple[ForgottenVersion, ...]
    """All of them, the first ones first."""
    job: str
    """In which state its job was: waiting, leased or failed; empty: it had none."""


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That memories were forgotten; it has nothing of what they said."""

    memories: tuple[Forgotten, ...]
    removed: tuple[str, ...]
    """Digests of the adapters whose files are removed."""
    kept: tuple[str, ...]
    """Digests of adapters that other memories have as well: these stay, as theirs."""
    erased: bool
    """Texts and keys are overwritten in SQLite's files; in a receipt that the bank has signed, these were
    written anew. False: a long read was in the way, and the log still has them; so has PostgreSQL, always,
    until `VACUUM FULL`."""

    @property
    def events(self) -> tuple[Event, ...]:
        """One for each memory; they stay in the catalog."""
        return tuple(memory.event for memory in self.memories)

    @property
    def parts(self) -> frozenset[str]:
        """All that the memories had: adapters by their digests, texts by `records.text_name`."""
        each = [(memory.event, version) for memory in self.memories for version in memory.versions]
        texts = (text_name(event.namespace, event.id, version.number) for event, version in each)
        return frozenset([*texts, *(version.adapter for _, version in each if version.adapter)])


def forget(
    catalog: Catalog,
    names: Iterable[MemoryName],
    who: str,
    *,
    stamps: Mapping[MemoryName, int] = MappingProxyType({}),
) -> Receipt:
    """Forget memories, with all their versions, keys, links, jobs, and adapters that no others share.

    Args:
        catalog: of which bank.
        names: of the memories.
        who: forgets them, for the history.
        stamps: that some had when they were read (see `find_stamp`).

    Raises:
        MemoryNotFoundError: there is no such memory; then none is forgotten.
        MemoryChangedError: one has another stamp by now; then none is forgotten.
        BankError: disk or database refuse. When the disk does, the memories are forgotten, and `sweep`
            removes what is left of their adapters.
    """
    chosen = sorted({MemoryName(*name) for name in names})

    def act(connection: sa.Connection) -> tuple[Forgotten, ...]:
        changing = Change(connection, who)
        gone = [_delete(changing, name, stamps.get(name)) for name in chosen]
        return tuple(
            Forgotten(event, *rest) for event, rest in zip(changing.write_events(), gone, strict=True)
        )

    gone = catalog.database.write(act)
    adapters = sorted({version.adapter for memory in gone for version in memory.versions if version.adapter})
    remove_free(catalog, adapters)
    kept = tuple(adapter for adapter in adapters if adapter_folder(catalog, adapter).exists())
    erased = catalog.database.erase() if gone else True
    return Receipt(gone, tuple(adapter for adapter in adapters if adapter not in kept), kept, erased)


def _delete(
    changing: Change, name: MemoryName, stamp: int | None
) -> tuple[int, tuple[ForgottenVersion, ...], str]:
    """Delete a memory and all that hangs on it; its row, versions, and the state of its job."""
    held = require_stamp(changing.connection, name, stamp)
    v = versions.c
    mine = sa.select(v.number, v.text_digest, v.key, v.adapter).where(v.memory == held.row).order_by(v.number)
    gone = tuple(_forgotten(row) for row in changing.connection.execute(mine))
    job = changing.connection.execute(sa.select(jobs.c.state).where(jobs.c.memory == held.row)).scalar()
    changing.connection.execute(sa.delete(memories).where(memories.c.row == held.row))
    changing.note("forgotten", held.row, name, held.newest)
    return held.row, gone, job or ""


def _forgotten(row: Any) -> ForgottenVersion:
    key = "" if row.key is None else hashlib.sha256(row.key).hexdigest()
    return ForgottenVersion(row.number, row.text_digest, key, row.adapter or "")
