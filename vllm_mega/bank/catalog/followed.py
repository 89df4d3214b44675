"""What a follower asks the catalog: all memories, or those that events name."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa

from vllm_mega.bank.catalog.tables import events, links, memories, versions


class Read(NamedTuple):
    """A row of `select_rows`."""

    row: int
    namespace: str
    id: str
    version: int
    state: str
    pinned: bool
    title: str
    tags: str
    """JSON."""
    adapter: str | None
    adapter_bytes: int
    rank: int
    age: float
    key: bytes | None = None


def select_rows(*, keys: bool, after: int | None) -> sa.CompoundSelect[Any]:
    """Of each memory the version that answers, with the newest's tags, as `Read` has it.

    Most memories are answered by their newest version: those are read without looking for another.

    Args:
        keys: whether to read the keys, too.
        after: only what later events name; None: everything.
    """
    newest = versions.alias("newest")
    same, other = memories.c.newest == memories.c.current, memories.c.newest != memories.c.current
    known = (newest.c.memory == memories.c.row) & (newest.c.number == memories.c.newest)
    alone = _select(_NOW.c.tags, keys, after).where(same)
    return sa.union_all(alone, _select(newest.c.tags, keys, after, newest, known).where(other))


def select_links(after: int | None) -> sa.Select[Any]:
    """(row, id that it links to), those of a row in their order."""
    query = sa.select(links.c.memory, links.c.target).order_by(links.c.memory, links.c.position)
    return query if after is None else query.where(links.c.memory.in_(_changed(after)))


def named_by_events(after: int) -> sa.Select[Any]:
    """(namespace, id) of all that events name. No DISTINCT: for that SQLite would walk the index of names."""
    return sa.select(events.c.namespace, events.c.id).where(events.c.number > after)


_NOW = versions.alias("now")


def _select(
    tags: sa.ColumnElement[Any],
    keys: bool,
    after: int | None,
    newest: sa.FromClause | None = None,
    known: sa.ColumnElement[bool] | None = None,
) -> sa.Select[Any]:
    m, now = memories.c, _NOW.c
    columns = [m.row, m.namespace, m.id, m.current, m.state, m.pinned, now.title, sa.cast(tags, sa.Text)]
    columns += [now.adapter, now.adapter_bytes, now.rank, _age(), *([now.key] if keys else [])]
    query = sa.select(*columns).join(_NOW, (now.memory == m.row) & (now.number == m.current))
    if newest is not None:
        query = query.join(newest, known)
    return query if after is None else query.where(m.row.in_(_changed(after)))


def _age() -> sa.ColumnElement[float]:
    """When the text came that answers: the first of the versions up to it that all have the same text.

    Tags make new versions of an old text, and restoring makes an old text new.
    """
    first, others = versions.alias("first"), versions.alias("others")
    m, now = memories.c, _NOW.c
    different = (others.c.memory == m.row) & (others.c.number < m.current)
    last = sa.select(sa.func.max(others.c.number)).where(different, others.c.text_digest != now.text_digest)
    since = sa.func.coalesce(last.correlate(memories, _NOW).scalar_subquery(), 0)
    same = (first.c.memory == m.row) & (first.c.number <= m.current) & (first.c.number > since)
    earliest = sa.select(sa.func.min(first.c.at)).where(same).correlate(memories, _NOW)
    return sa.case((m.current == 1, now.at), else_=earliest.scalar_subquery())


def _changed(after: int) -> sa.Select[Any]:
    return sa.select(events.c.memory).where(events.c.number > after)
