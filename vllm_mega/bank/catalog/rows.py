"""From structs to rows and back: what of a memory stands in which column."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from vllm_mega.bank.catalog.records import Draft, Memory, MemoryName, Source, State, Version
from vllm_mega.bank.catalog.tables import jobs, memories, versions
from vllm_mega.bank.layout import QA
from vllm_mega.errors import MemoryNotFoundError

Values = dict[str, Any]

SOURCE = (versions.c.source_file, versions.c.source_digest, versions.c.source_start, versions.c.source_end)
VERSION = (
    versions.c.number, versions.c.text, versions.c.title, versions.c.paraphrases, versions.c.qa,
    versions.c.tags, *SOURCE, versions.c.text_digest, versions.c.key, versions.c.adapter,
    versions.c.adapter_bytes, versions.c.rank, versions.c.recipe, versions.c.training, versions.c.who,
    versions.c.at,
)  # fmt: skip


class Held(NamedTuple):
    """A memory's own row, locked until the transaction ends."""

    row: int
    name: MemoryName
    state: State
    newest: int
    current: int
    pinned: bool
    expires: float | None = None
    retired: bool = False


def hold(connection: sa.Connection, name: MemoryName) -> Held | None:
    """The memory's row, and nobody else's to change until the transaction ends; None: no such memory."""
    m = memories.c
    query = sa.select(m.row, m.state, m.newest, m.current, m.pinned, m.expires, m.retired)
    found = connection.execute(query.where(*named(name)).with_for_update()).one_or_none()
    return found and Held(found.row, name, *found[1:])


def require(connection: sa.Connection, name: MemoryName) -> Held:
    """As `hold`.

    Raises:
        MemoryNotFoundError: no such memory.
    """
    held = hold(connection, name)
    if held is None:
        raise unknown(name)
    return held


def unknown(name: MemoryName) -> MemoryNotFoundError:
    return MemoryNotFoundError(f"namespace {name.namespace!r} has no memory {name.id!r}")


def living(now: float | sa.ColumnElement[float] | None = None) -> sa.ColumnElement[bool]:
    """Whether a row of `memories` has not expired; None: at this moment."""
    return memories.c.expires.is_(None) | (memories.c.expires > (time.time() if now is None else now))


def expired(now: float | None = None) -> sa.ColumnElement[bool]:
    """Whether a row of `memories` has; an index knows."""
    return memories.c.expires <= (time.time() if now is None else now)


def named(name: MemoryName) -> tuple[sa.ColumnElement[bool], ...]:
    """Whether a row of `memories` is this one; what has expired is nobody's."""
    return (memories.c.namespace == name.namespace, memories.c.id == name.id, living())


def among(names: Sequence[MemoryName]) -> sa.ColumnElement[bool]:
    """Whether a row of `memories` is one of these, a few hundred at most, and has not expired."""
    return sa.tuple_(memories.c.namespace, memories.c.id).in_([tuple(name) for name in names]) & living()


def version_values(draft: Draft) -> Values:
    """The columns of a version that its content decides; those of the adapter are empty."""
    memory = draft.memory
    return {
        "text": memory.text,
        "title": memory.title,
        "paraphrases": list(memory.paraphrases),
        "qa": msgspec.to_builtins(memory.qa),
        "tags": list(memory.tags),
        **source_values(draft.source),
        "text_digest": draft.text_digest,
        "key": draft.key,
    }


def source_values(source: Source | None) -> Values:
    """The columns of a source."""
    names = ("file", "digest", "start", "end")
    return {f"source_{name}": source and getattr(source, name) for name in names}


def source_of(row: sa.Row[Any]) -> Source | None:
    """The source that `row` has in its columns."""
    if row.source_file is None:
        return None
    return Source(row.source_file, row.source_digest, row.source_start, row.source_end)


def version_of(name: MemoryName, row: sa.Row[Any]) -> Version:
    """The version whose columns (`VERSION`) `row` has."""
    return Version(
        *name,
        number=row.number,
        text=row.text,
        title=row.title,
        paraphrases=tuple(row.paraphrases),
        qa=msgspec.convert(row.qa, tuple[QA, ...]),
        tags=tuple(row.tags),
        source=source_of(row),
        text_digest=row.text_digest,
        key=row.key,
        adapter=row.adapter,
        adapter_bytes=row.adapter_bytes,
        rank=row.rank,
        recipe=row.recipe,
        training=row.training,
        who=row.who,
        at=row.at,
    )


def select_memories() -> sa.Select[Any]:
    """What `memory_of` needs, of all memories."""
    m, now = memories.c, versions.alias("now")
    newest = (versions.c.memory == m.row) & (versions.c.number == m.newest)
    return (
        sa.select(
            m.row, m.namespace, m.id, m.state, m.newest, m.current, m.pinned, m.added, m.changed,
            m.expires, m.retired, versions.c.title, versions.c.tags, *SOURCE, jobs.c.reason,
            now.c.adapter, now.c.adapter_bytes, now.c.rank, now.c.recipe,
        )
        .join(versions, newest)
        .join(now, (now.c.memory == m.row) & (now.c.number == m.current))
        .outerjoin(jobs, jobs.c.memory == m.row)
    )  # fmt: skip


def memory_of(row: sa.Row[Any]) -> Memory:
    """The memory that a row of `select_memories` describes."""
    return Memory(
        namespace=row.namespace,
        id=row.id,
        state=row.state,
        newest=row.newest,
        current=row.current,
        pinned=row.pinned,
        title=row.title,
        tags=tuple(row.tags),
        source=source_of(row),
        added=row.added,
        changed=row.changed,
        reason=row.reason or "",
        adapter=row.adapter,
        adapter_bytes=row.adapter_bytes,
        rank=row.rank,
        recipe=row.recipe,
        expires=row.expires,
        retired=row.retired,
    )
