"""Memories that have had their time are forgotten for good.

From the moment on, reading finds them no more (`rows.living`); what is left of them goes here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.events import Change
from vllm_mega.bank.catalog.once import is_old
from vllm_mega.bank.catalog.records import CLOCK, EventKind, MemoryName
from vllm_mega.bank.catalog.rows import expired
from vllm_mega.bank.catalog.store import remove_free
from vllm_mega.bank.catalog.tables import idempotency, memories, versions

_AT_A_TIME = 400


class Gone(NamedTuple):
    """Memories that were deleted, in a transaction that may not have ended."""

    names: list[MemoryName]
    adapters: set[str]
    """Digests of those that they had."""


NOBODY = Gone([], set())


def expire(catalog: Catalog) -> list[MemoryName]:
    """Forget for good what has expired, and answers that were kept for a day; the memories.

    Cheap where nothing has: it is asked before anything is locked.

    Raises:
        BankError: disk or database refuse.
    """
    if not _any_over(catalog):
        return []

    def act(connection: sa.Connection) -> Gone:
        changing = Change(connection, CLOCK)
        connection.execute(sa.delete(idempotency).where(is_old(changing.at)))
        gone = delete_expired(changing)
        changing.write_events()
        return gone

    gone = catalog.database.write(act)
    clear(catalog, gone)
    return gone.names


def delete_expired(change: Change) -> Gone:
    """Delete what has expired, in any namespace, each with an event by nobody; `clear` does the rest."""
    return delete(change, expired(change.at), "expired", CLOCK)


def delete(change: Change, which: sa.ColumnElement[bool], kind: EventKind, who: str | None = None) -> Gone:
    """Delete memories with all that hangs on them, each with an event; `clear` does the rest.

    Args:
        change: the transaction.
        which: of a row of `memories`.
        kind: of the events.
        who: by whom they are; None: by whom the transaction is.
    """
    m = memories.c
    query = sa.select(m.row, m.namespace, m.id, m.newest).where(which).order_by(m.namespace, m.id)
    found = change.connection.execute(query.with_for_update()).all()
    adapters: set[str] = set()
    for start in range(0, len(found), _AT_A_TIME):
        adapters |= _delete(change.connection, [row.row for row in found[start : start + _AT_A_TIME]])
    names = [MemoryName(row.namespace, row.id) for row in found]
    for name, row in zip(names, found, strict=True):
        change.note(kind, row.row, name, row.newest, who)
    return Gone(names, adapters)


def clear(catalog: Catalog, gone: Gone) -> None:
    """After the commit: remove adapters that no others share, and overwrite what was deleted.

    Raises:
        BankError: disk or database refuse; `sweep` removes what is left of the adapters.
    """
    if gone.names:
        remove_free(catalog, gone.adapters)
        catalog.database.erase()


def _delete(connection: sa.Connection, rows: Sequence[int]) -> set[str]:
    v = versions.c
    had = sa.select(v.adapter).where(v.memory.in_(rows), v.adapter.is_not(None)).distinct()
    adapters = set(connection.execute(had).scalars())
    connection.execute(sa.delete(memories).where(memories.c.row.in_(rows)))
    return adapters


def _any_over(catalog: Catalog) -> bool:
    over = sa.select(sa.literal(1)).select_from(memories).where(expired())
    old = sa.select(sa.literal(1)).select_from(idempotency).where(is_old(time.time()))
    with catalog.database.read() as connection:
        return any(connection.execute(query.limit(1)).first() for query in (over, old))
