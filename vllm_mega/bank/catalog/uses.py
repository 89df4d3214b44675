"""How often and how lately memories were used: a row for each that ever was, and no events.

Readers are not woken up: who wants to know asks now and then for all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.database import lock_name
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.catalog.rows import among
from vllm_mega.bank.catalog.tables import memories, uses

_TOGETHER = 500
"""Memories that are written in one transaction."""
_CHUNK = 2_000
"""Rows that are read at a time."""


class Use(NamedTuple):
    """How much a memory has been used."""

    strength: float
    """Uses that counted, the older the less, as of `last`; at least 1."""
    last: float
    """When the last one that counted was, seconds since 1970."""


class AllUses(NamedTuple):
    """What is known of all memories of a bank."""

    used: Mapping[MemoryName, Use]
    """Those that were ever used."""
    pinned: frozenset[MemoryName]


Strengthen = Callable[[Use | None, float], Use]
"""From what a memory has (None: nothing) and the time of a use to what it has then."""


def read_uses(catalog: Catalog) -> AllUses:
    """All uses of all memories, as they are now.

    Raises:
        BankError: the catalog cannot be read.
    """
    m, u = memories.c, uses.c
    query = sa.select(m.namespace, m.id, u.strength, u.last).join(memories, m.row == u.memory)
    pinned = sa.select(m.namespace, m.id).where(m.pinned)
    used: dict[MemoryName, Use] = {}
    with catalog.database.read() as connection:
        for part in connection.execute(query, execution_options={"yield_per": _CHUNK}).partitions():
            namespaces, ids, strengths, lasts = zip(*part, strict=True)
            used.update(zip(map(MemoryName, namespaces, ids), map(Use, strengths, lasts), strict=True))
        return AllUses(used, frozenset(MemoryName(*row) for row in connection.execute(pinned)))


def add_uses(catalog: Catalog, times: Mapping[MemoryName, float], strengthen: Strengthen) -> None:
    """Write a use of each of these memories; those that are forgotten meanwhile are passed over.

    Several processes may write at once: each adds to what the others have written.

    Args:
        catalog: of which bank.
        times: when each was used.
        strengthen: what a use makes of what is there.

    Raises:
        BankError: the catalog cannot be written; some may be written then, and it can be tried again.
    """
    names = iter(times)
    while some := list(islice(names, _TOGETHER)):
        catalog.database.write(partial(_add, names=some, times=times, strengthen=strengthen))


def _add(
    connection: sa.Connection,
    names: Sequence[MemoryName],
    times: Mapping[MemoryName, float],
    strengthen: Strengthen,
) -> None:
    lock_name(connection, "uses")
    new, known = [], []
    for row, name, use in _there(connection, names):
        after = strengthen(use, times[name])
        if use is None:
            new.append({"memory": row, **after._asdict()})
        elif after != use:
            known.append({"of": row, "to_strength": after.strength, "to_last": after.last})
    if new:
        connection.execute(sa.insert(uses), new)
    if known:
        values: dict[str, Any] = {name: sa.bindparam(f"to_{name}") for name in Use._fields}
        connection.execute(sa.update(uses).where(uses.c.memory == sa.bindparam("of")).values(values), known)


def _there(
    connection: sa.Connection, names: Sequence[MemoryName]
) -> Iterator[tuple[int, MemoryName, Use | None]]:
    """Those of these memories that there are: row, name, and what it has."""
    m, u = memories.c, uses.c
    query = sa.select(m.row, m.namespace, m.id, u.strength, u.last).outerjoin(uses, u.memory == m.row)
    for row, namespace, memory_id, strength, last in connection.execute(query.where(among(names))).all():
        yield row, MemoryName(namespace, memory_id), None if last is None else Use(strength, last)
