"""What a follower asks the catalog: all memories, or those that events name."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from vllm_mega.bank.catalog.rows import living
from vllm_mega.bank.catalog.tables import events, links, memories, versions


@lru_cache
def select_rows(*, keys: bool, new: bool) -> sa.CompoundSelect[Any]:
    """Of each memory the version that answers, with the newest's tags; none of what is retired.

    Nor what has expired at the time of the parameter `now`.

    Columns: row, namespace, id, version, state, title, tags (JSON), adapter, age and, if asked for, key. Each
    costs a start 0.2 s per million memories.

    Most memories are answered by their newest version: those are read without looking for another.

    Args:
        keys: whether to read the keys, too.
        new: only what events later than the parameter `after` name; False: everything.
    """
    newest = versions.alias("newest")
    same, other = memories.c.newest == memories.c.current, memories.c.newest != memories.c.current
    known = (newest.c.memory == memories.c.row) & (newest.c.number == memories.c.newest)
    alone = _select(_NOW.c.tags, keys, new).where(same)
    return sa.union_all(alone, _select(newest.c.tags, keys, new, newest, known).where(other))


@lru_cache
def select_links(*, new: bool) -> sa.Select[Any]:
    """(row, id that it links to), those of a row in their order; `new` as above."""
    query = sa.select(links.c.memory, links.c.target).order_by(links.c.memory, links.c.position)
    return query.where(links.c.memory.in_(_CHANGED)) if new else query


@lru_cache
def select_expirations(*, new: bool) -> sa.Select[Any]:
    """(namespace, id, when it expires) of memories that do; `new` as above."""
    m = memories.c
    query = sa.select(m.namespace, m.id, m.expires).where(m.expires.is_not(None))
    return query.where(m.row.in_(_CHANGED)) if new else query


_LATER = events.c.number > sa.bindparam("after")
_CHANGED = sa.select(events.c.memory).where(_LATER)
NAMED_BY_EVENTS = sa.select(events.c.namespace, events.c.id).where(_LATER)
"""Whom events later than the parameter `after` name. No DISTINCT: for that SQLite would walk the index."""
_NOW = versions.alias("now")


def _select(
    tags: sa.ColumnElement[Any],
    keys: bool,
    new: bool,
    newest: sa.FromClause | None = None,
    known: sa.ColumnElement[bool] | None = None,
) -> sa.Select[Any]:
    m, now = memories.c, _NOW.c
    columns = [m.row, m.namespace, m.id, m.current, m.state, now.title, sa.cast(tags, sa.Text)]
    columns += [now.adapter, _age(), *([now.key] if keys else [])]
    query = sa.select(*columns).join(_NOW, (now.memory == m.row) & (now.number == m.current))
    if newest is not None:
        query = query.join(newest, known)
    query = query.where(sa.not_(m.retired), living(sa.bindparam("now", type_=sa.Double)))
    return query.where(m.row.in_(_CHANGED)) if new else query


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
