"""Parts of memories, adapters and texts, that no memory has any more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.records import EventKind, MemoryName, text_name
from vllm_mega.bank.catalog.rows import among
from vllm_mega.bank.catalog.tables import events, memories, versions

_AT_A_TIME = 400
_KINDS: tuple[EventKind, ...] = ("forgotten", "expired")


def gone(catalog: Catalog, parts: Iterable[str]) -> list[str]:
    """Those of `parts` that no version of any memory has, sorted.

    Args:
        catalog: of the bank.
        parts: adapters by their digests, texts by their names (`records.text_name`).

    Raises:
        BankError: the catalog cannot be read.
    """
    asked = set(parts)
    texts = sorted(part for part in asked if "/" in part)
    with catalog.database.read() as connection:
        there = {*_adapters(connection, sorted(asked.difference(texts))), *_texts(connection, texts)}
    return sorted(asked - there)


def forgotten_after(catalog: Catalog, number: int) -> bool:
    """Whether a memory was forgotten, or has expired, after the event of this number.

    Raises:
        BankError: the catalog cannot be read.
    """
    query = sa.select(events.c.number).where(events.c.number > number, events.c.kind.in_(_KINDS)).limit(1)
    with catalog.database.read() as connection:
        return connection.execute(query).first() is not None


def _adapters(connection: sa.Connection, digests: Sequence[str]) -> Iterator[str]:
    for some in _some(digests):
        query = sa.select(versions.c.adapter).where(versions.c.adapter.in_(some)).distinct()
        yield from connection.execute(query).scalars()


def _texts(connection: sa.Connection, names: Sequence[str]) -> Iterator[str]:
    m, v = memories.c, versions.c
    query = sa.select(m.namespace, m.id, v.number).join(versions, v.memory == m.row)
    for some in _some(names):
        mine = [MemoryName(*name.split("/")[:2]) for name in some]
        for row in connection.execute(query.where(among(mine))):
            yield text_name(*row)


def _some(parts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (parts[start : start + _AT_A_TIME] for start in range(0, len(parts), _AT_A_TIME))
