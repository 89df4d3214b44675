"""What a bank has of some memories, many at a time: enough to say what is new, and what is to be trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.reading import check_limit, find_memory, row_of
from vllm_mega.bank.catalog.records import JobPage, JobState, JobStatus, Memory, MemoryName, State
from vllm_mega.bank.catalog.rows import among, living, named
from vllm_mega.bank.catalog.tables import jobs, links, memories, versions

_AT_A_TIME = 400


class Known(msgspec.Struct, frozen=True):
    """A memory, without its text."""

    state: State
    tags: tuple[str, ...]
    text_digest: str
    """Of the newest version."""
    version: int
    """Number of the version that answers."""
    answers: str
    """Text digest of the version that answers."""
    adapter: str | None
    """Of the version that answers; None: it has none."""
    recipe: str
    """That made the adapter; empty: it was made elsewhere, or there is none."""
    training: Mapping[str, Any]
    """How it was trained."""
    job: JobState | None
    """Whether an adapter is wanted for the newest version, and how that goes; None: none is."""
    reason: str
    """Why the last training failed; empty: it did not."""
    retired: bool
    """No trainer takes it."""


def known(catalog: Catalog, names: Sequence[MemoryName]) -> dict[MemoryName, Known]:
    """Those of `names` that the bank has.

    Raises:
        BankError: the catalog cannot be read.
    """
    with catalog.database.read() as connection:
        return dict(_known(connection, names))


def ids_beginning(catalog: Catalog, namespace: str, prefix: str) -> frozenset[str]:
    """Ids of a namespace's memories that begin with `prefix`.

    Raises:
        BankError: the catalog cannot be read.
    """
    m = memories.c
    query = sa.select(m.id).where(
        m.namespace == namespace, m.id.startswith(prefix, autoescape=True), living()
    )
    with catalog.database.read() as connection:
        return frozenset(connection.scalars(query))


def list_jobs(catalog: Catalog, namespace: str | None = None) -> list[JobStatus]:
    """All jobs, the oldest memories first: those that wait, those that somebody has, those that failed.

    Raises:
        BankError: the catalog cannot be read.
    """
    query = _select_jobs().order_by(memories.c.row)
    if namespace is not None:
        query = query.where(memories.c.namespace == namespace)
    with catalog.database.read() as connection:
        return [JobStatus(*row) for row in connection.execute(query)]


def page_jobs(
    catalog: Catalog,
    namespace: str,
    state: JobState | None = None,
    *,
    limit: int = 100,
    cursor: str | None = None,
) -> JobPage:
    """Jobs of a namespace, the oldest memories first, as trainers take them.

    Jobs that come or end between two pages leave the others where they are.

    Args:
        catalog: of which bank.
        namespace: whose jobs.
        state: only jobs in this state; None: all.
        limit: 1..1000 of a page.
        cursor: that of the page before; None: the first page.

    Raises:
        BankError: a cursor that no page gave, or a limit out of range.
    """
    check_limit(limit, "jobs")
    query = _select_jobs().add_columns(memories.c.row).where(memories.c.namespace == namespace)
    if state is not None:
        query = query.where(jobs.c.state == state)
    if cursor is not None:
        query = query.where(memories.c.row > row_of(cursor))
    with catalog.database.read() as connection:
        rows = connection.execute(query.order_by(memories.c.row).limit(limit + 1)).all()
    more = str(rows[limit - 1].row) if len(rows) > limit else None
    return JobPage(tuple(JobStatus(*row[:-1]) for row in rows[:limit]), more)


def find_job(catalog: Catalog, name: MemoryName) -> tuple[Memory, JobStatus | None]:
    """A memory, and the job for its newest version; None: there is none.

    Raises:
        MemoryNotFoundError: no such memory.
    """
    with catalog.database.read() as connection:
        memory = find_memory(connection, name)
        row = connection.execute(_select_jobs().where(*named(name))).one_or_none()
    return memory, None if row is None else JobStatus(*row)


def _select_jobs() -> sa.Select[Any]:
    m, j = memories.c, jobs.c
    query = sa.select(m.namespace, m.id, m.newest, j.state, j.owner, j.attempts, j.reason)
    return query.add_columns(j.expires, j.started, j.steps).join(jobs, j.memory == m.row).where(living())


def links_of(catalog: Catalog, names: Sequence[MemoryName]) -> dict[MemoryName, tuple[str, ...]]:
    """The ids that memories link to, in order; nothing of those that link to none.

    Raises:
        BankError: the catalog cannot be read.
    """
    found: dict[MemoryName, tuple[str, ...]] = {}
    query = sa.select(memories.c.namespace, memories.c.id, links.c.target).join(links)
    query = query.order_by(links.c.memory, links.c.position)
    with catalog.database.read() as connection:
        for some in _parts(names):
            for row in connection.execute(query.where(among(some))):
                name = MemoryName(row.namespace, row.id)
                found[name] = (*found.get(name, ()), row.target)
    return found


def _parts(names: Sequence[MemoryName]) -> Iterator[Sequence[MemoryName]]:
    return (names[start : start + _AT_A_TIME] for start in range(0, len(names), _AT_A_TIME))


def _known(connection: sa.Connection, names: Sequence[MemoryName]) -> Iterator[tuple[MemoryName, Known]]:
    query = _select()
    for some in _parts(names):
        for row in connection.execute(query.where(among(some))):
            yield MemoryName(row.namespace, row.id), _of(row)


def _select() -> sa.Select[Any]:
    m, now, newest = memories.c, versions.alias("now"), versions.alias("newest")
    return (
        sa.select(m.namespace, m.id, m.state, m.current, newest.c.tags, newest.c.text_digest)
        .add_columns(now.c.text_digest.label("answers"), now.c.adapter, now.c.recipe, now.c.training)
        .add_columns(jobs.c.state.label("job"), jobs.c.reason, m.retired)
        .join(now, (now.c.memory == m.row) & (now.c.number == m.current))
        .join(newest, (newest.c.memory == m.row) & (newest.c.number == m.newest))
        .outerjoin(jobs, jobs.c.memory == m.row)
    )


def _of(row: sa.Row[Any]) -> Known:
    return Known(
        row.state, tuple(row.tags), row.text_digest, row.current, row.answers, row.adapter, row.recipe,
        row.training, row.job, row.reason or "", row.retired,
    )  # fmt: skip
