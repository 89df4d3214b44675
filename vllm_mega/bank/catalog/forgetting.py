"""Forgetting: what is gone from the catalog is gone from the disk, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec
import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.events import Change, require_stamp
from vllm_mega.bank.catalog.records import Event, MemoryName
from vllm_mega.bank.catalog.store import remove_free
from vllm_mega.bank.catalog.tables import memories, versions


class Receipt(msgspec.Struct, frozen=True):
    """That memories were forgotten; it has nothing of what they said."""

    events: tuple[Event, ...]
    """One for each memory; they stay in the catalog."""
    erased: bool
    """Texts and keys are overwritten in SQLite's files; False: a long read was in the way, and the log still
    has them until it is written anew. PostgreSQL overwrites in its own time (VACUUM)."""


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

    def act(connection: sa.Connection) -> tuple[list[Event], set[str]]:
        changing = Change(connection, who)
        adapters = {adapter for name in chosen for adapter in _delete(changing, name, stamps.get(name))}
        return changing.write_events(), adapters

    events, adapters = catalog.database.write(act)
    remove_free(catalog, adapters)
    return Receipt(tuple(events), catalog.database.erase() if events else True)


def _delete(changing: Change, name: MemoryName, stamp: int | None) -> list[str]:
    """Delete a memory and all that hangs on it; the adapters that it named."""
    held = require_stamp(changing.connection, name, stamp)
    mine = sa.select(versions.c.adapter).where(versions.c.memory == held.row, versions.c.adapter.is_not(None))
    adapters = list(changing.connection.execute(mine).scalars())
    changing.connection.execute(sa.delete(memories).where(memories.c.row == held.row))
    changing.note("forgotten", held.row, name, held.newest)
    return adapters
