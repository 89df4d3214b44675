"""Reading the catalog: one memory, its versions, lists by pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.database import lock_name
from vllm_mega.bank.catalog.records import EVERYTHING, Filter, Memory, MemoryName, Page, Version
from vllm_mega.bank.catalog.rows import (
    VERSION,
    expired,
    living,
    memory_of,
    named,
    select_memories,
    unknown,
    version_of,
)
from vllm_mega.bank.catalog.tables import links, memories, tags, versions
from vllm_mega.errors import BankError, LimitError, MemoryNotFoundError

MOST = 1000
"""Memories, or jobs, of a page."""


def get_memory(catalog: Catalog, namespace: str, memory_id: str) -> Memory:
    """The memory, without its text.

    Raises:
        MemoryNotFoundError: no such memory.
    """
    with catalog.database.read() as connection:
        return find_memory(connection, MemoryName(namespace, memory_id))


def get_version(catalog: Catalog, namespace: str, memory_id: str, number: int | None = None) -> Version:
    """One version, with its text; None: the one that answers.

    Raises:
        MemoryNotFoundError: no such memory, or no such version of it.
    """
    name = MemoryName(namespace, memory_id)
    with catalog.database.read() as connection:
        return find_version(connection, name, number)


def get_links(catalog: Catalog, namespace: str, memory_id: str) -> tuple[str, ...]:
    """The ids that the memory links to, in order.

    Raises:
        MemoryNotFoundError: no such memory.
    """
    with catalog.database.read() as connection:
        return find_links_of(connection, MemoryName(namespace, memory_id))


def history(catalog: Catalog, namespace: str, memory_id: str) -> list[Version]:
    """All versions of the memory, the newest first.

    Raises:
        MemoryNotFoundError: no such memory.
    """
    name = MemoryName(namespace, memory_id)
    query = _select_versions(name).order_by(versions.c.number.desc())
    with catalog.database.read() as connection:
        found = [version_of(name, row) for row in connection.execute(query)]
    if not found:
        raise unknown(name)
    return found


def list_memories(
    catalog: Catalog,
    chosen: Filter = EVERYTHING,
    *,
    limit: int = 100,
    cursor: str | None = None,
) -> Page:
    """Memories that pass the filter, the latest added first.

    Memories that come or go between two pages leave the others where they are: none comes twice, none is left
    out.

    Args:
        catalog: of which bank.
        chosen: which memories.
        limit: 1..1000 of a page.
        cursor: that of the page before; None: the first page.

    Raises:
        BankError: a cursor that no page gave, or a limit out of range.
    """
    check_limit(limit, "memories")
    query = select_memories().where(*_conditions(chosen), *_before(cursor))
    with catalog.database.read() as connection:
        rows = connection.execute(query.order_by(memories.c.row.desc()).limit(limit + 1)).all()
    more = str(rows[limit - 1].row) if len(rows) > limit else None
    return Page(tuple(memory_of(row) for row in rows[:limit]), more)


def count_memories(catalog: Catalog, chosen: Filter = EVERYTHING) -> int:
    """How many memories pass the filter.

    Raises:
        BankError: the database refuses.
    """
    query = select_memories().where(*_conditions(chosen)).with_only_columns(sa.func.count())
    with catalog.database.read() as connection:
        return connection.execute(query).scalar_one()


class Adapters(NamedTuple):
    """How many memories are answered by an adapter, and how large these adapters are."""

    memories: int
    """So many have one."""
    bytes: int
    """Of the largest; 0: there is none."""
    rank: int
    """The greatest of all."""


def measure_adapters(catalog: Catalog) -> Adapters:
    """How many memories are answered by an adapter, and how large these adapters are.

    Raises:
        BankError: the database refuses.
    """
    m, v = memories.c, versions.c
    largest = (sa.func.coalesce(sa.func.max(column), 0) for column in (v.adapter_bytes, v.rank))
    query = sa.select(sa.func.count(), *largest).select_from(memories)
    query = query.join(versions, (v.memory == m.row) & (v.number == m.current)).where(v.adapter.is_not(None))
    with catalog.database.read() as connection:
        return Adapters(*connection.execute(query).one())


def check_room(connection: sa.Connection, namespaces: Iterable[str], most: int) -> None:
    """Refuse a namespace that has more than `most` memories, as this transaction sees it.

    On PostgreSQL nobody else passes for the same namespace until the transaction ends, or two could.

    Raises:
        LimitError: it has.
    """
    for namespace in sorted(namespaces):
        lock_name(connection, f"room of {namespace}")
        mine = sa.select(sa.func.count()).select_from(memories).where(memories.c.namespace == namespace)
        if (count := connection.execute(mine).scalar_one()) > most:
            raise LimitError(
                f"the namespace {namespace!r} may have {most} memories, and would have {count}: forget some, "
                "or ask for a higher limit"
            )


def find_memory(connection: sa.Connection, name: MemoryName) -> Memory:
    """As `get_memory`, inside a transaction.

    Raises:
        MemoryNotFoundError: no such memory.
    """
    row = connection.execute(select_memories().where(*named(name))).one_or_none()
    if row is None:
        raise unknown(name)
    return memory_of(row)


def find_version(connection: sa.Connection, name: MemoryName, number: int | None = None) -> Version:
    """As `get_version`, inside a transaction.

    Raises:
        MemoryNotFoundError: no such memory, or no such version of it.
    """
    wanted = versions.c.number == (memories.c.current if number is None else number)
    row = connection.execute(_select_versions(name).where(wanted)).one_or_none()
    if row is None:
        missing = unknown(name)
        raise missing if number is None else MemoryNotFoundError(f"{missing} of version {number}")
    return version_of(name, row)


def find_links_of(connection: sa.Connection, name: MemoryName) -> tuple[str, ...]:
    """As `get_links`, inside a transaction.

    Raises:
        MemoryNotFoundError: no such memory.
    """
    row = connection.execute(sa.select(memories.c.row).where(*named(name))).scalar()
    if row is None:
        raise unknown(name)
    return find_links(connection, row)


def find_links(connection: sa.Connection, row: int) -> tuple[str, ...]:
    """The ids that the memory in this row links to, in order."""
    mine = sa.select(links.c.target).where(links.c.memory == row).order_by(links.c.position)
    return tuple(connection.execute(mine).scalars())


def _select_versions(name: MemoryName) -> sa.Select[Any]:
    return sa.select(*VERSION).join(memories, memories.c.row == versions.c.memory).where(*named(name))


def _conditions(chosen: Filter) -> list[sa.ColumnElement[bool]]:
    """What a row of `select_memories` must be."""
    asked = msgspec.structs.asdict(chosen)
    return [_FILTERS[name](value) for name, value in asked.items() if value is not None]


_FILTERS: dict[str, Callable[[Any], sa.ColumnElement[bool]]] = {
    "namespace": lambda value: memories.c.namespace == value,
    "tag": lambda value: memories.c.row.in_(sa.select(tags.c.memory).where(tags.c.tag == value)),
    "state": lambda value: memories.c.state == value,
    "source": lambda value: versions.c.source_file == value,
    "pinned": lambda value: memories.c.pinned == value,
    "since": lambda value: memories.c.changed >= value,
    "until": lambda value: memories.c.changed < value,
    "retired": lambda value: memories.c.retired == value,
    "expired": lambda value: expired() if value else living(),
}


def _before(cursor: str | None) -> list[sa.ColumnElement[bool]]:
    return [] if cursor is None else [memories.c.row < row_of(cursor)]


def row_of(cursor: str) -> int:
    """The row of the memory that ended a page.

    Raises:
        BankError: no page gave this cursor.
    """
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise BankError(f"{cursor[:40]!r} is no cursor that a page gave: begin with the first page")
    return int(cursor)


def check_limit(limit: int, what: str) -> None:
    """Refuse a page that is empty or too long.

    Raises:
        BankError: as above.
    """
    if not 1 <= limit <= MOST:
        raise BankError(f"a page has 1..{MOST} {what}, not {limit}")
