"""Checking a bank: what the catalog says against itself, and against the disk in both directions.

Reads, changes nothing; writers may go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from vllm_mega.bank.adapter import adapter_digest, check_adapter
from vllm_mega.bank.catalog.catalog import ADAPTERS, FILES, STAGING, Catalog
from vllm_mega.bank.catalog.claims import claimed, living
from vllm_mega.bank.catalog.drafts import key_array, key_problem
from vllm_mega.bank.catalog.events import last_event
from vllm_mega.bank.catalog.store import DIGEST, adapter_folder, named, on_disk
from vllm_mega.bank.catalog.tables import events, jobs, memories, versions
from vllm_mega.bank.lora_tensors import Shapes
from vllm_mega.errors import AdapterError, BankError

Progress = Callable[[list[str]], Iterable[str]]
_SWEPT = "left by work that was cut off: a sweep removes it"


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a bank."""

    kind: str
    """database, events, memory, key, adapter, orphan, staging or stranger."""
    where: str
    """A path relative to the bank, or namespace/id."""
    problem: str


def check(
    catalog: Catalog, shapes: Shapes | None = None, *, max_rank: int | None = None, progress: Progress = iter
) -> list[Problem]:
    """Check catalog, keys, every adapter that a version names, and every file that none names.

    Args:
        catalog: of which bank.
        shapes: (O, I) by linear module of the base model; None: of adapters only the digest is checked.
        max_rank: the largest rank that will be served; None: any.
        progress: wraps the adapters while they are checked, for a progress bar.

    Raises:
        BankError: the catalog cannot be read at all.
    """
    found = check_rows(catalog)
    for adapter in progress(sorted(named(catalog))):
        found += _adapter(catalog, adapter, shapes, max_rank)
    return [*found, *_leftovers(catalog)]


def check_rows(catalog: Catalog) -> list[Problem]:
    """The part of `check` that reads the catalog alone, no adapters.

    Raises:
        BankError: the catalog cannot be read at all.
    """
    with catalog.database.read() as connection:
        found = [*_database(connection), *_events(connection), *_memories(connection)]
        return [*found, *_keys(connection, catalog.embedder.dim)]


def _database(connection: sa.Connection) -> Iterator[Problem]:
    """SQLite's own checks; PostgreSQL watches over itself."""
    if connection.dialect.name == "sqlite":
        for answer in connection.exec_driver_sql("PRAGMA quick_check").scalars():
            if answer != "ok":
                yield Problem("database", connection.engine.url.database or "", answer)


def _events(connection: sa.Connection) -> Iterator[Problem]:
    """Their numbers are 1, 2, 3, ... as far as the counter says."""
    last = last_event(connection)
    count, highest = connection.execute(sa.select(sa.func.count(), sa.func.max(events.c.number))).one()
    if (count, highest or 0) != (last, last):
        yield Problem("events", "", f"expected events 1..{last}, found {count}, the last {highest}")


def _memories(connection: sa.Connection) -> Iterator[Problem]:
    """Every memory has the versions that it names, and is in the state that they and its job tell."""
    m, now, newest = memories.c, versions.alias("now"), versions.alias("newest")
    query = (
        sa.select(m.namespace, m.id, m.state, now.c.number.label("now"), now.c.adapter.label("answers"))
        .add_columns(
            newest.c.number.label("newest"), newest.c.adapter.label("adapter"), jobs.c.state.label("job")
        )
        .outerjoin(now, (now.c.memory == m.row) & (now.c.number == m.current))
        .outerjoin(newest, (newest.c.memory == m.row) & (newest.c.number == m.newest))
        .outerjoin(jobs, jobs.c.memory == m.row)
    )
    for row in connection.execute(query.execution_options(yield_per=10_000)):
        if problem := memory_problem(row):
            yield Problem("memory", f"{row.namespace}/{row.id}", problem)


def memory_problem(row: sa.Row[Any]) -> str | None:
    """What contradicts itself in a memory; None: nothing."""
    if row.now is None or row.newest is None:
        return "a version that it names is missing"
    if (row.state == "ready") != (row.job is None and row.adapter is not None):
        return f"state {row.state}, job {row.job}, adapter {row.adapter} of the newest version"
    if (row.state == "training") != (row.job == "leased") or (row.state == "failed") != (row.job == "failed"):
        return f"state {row.state}, and its job is {row.job}"
    if row.now != row.newest and row.answers is None:
        return f"version {row.now} answers without an adapter, and version {row.newest} is newer"
    return None


def _keys(connection: sa.Connection, dim: int) -> Iterator[Problem]:
    m, v = memories.c, versions.c
    query = sa.select(m.namespace, m.id, v.number, v.key).join(memories, m.row == v.memory)
    rows = connection.execute(query.where(v.key.is_not(None)).execution_options(yield_per=10_000))
    for row in rows:
        whole = len(row.key) == 4 * dim
        problem = key_problem(key_array(row.key), dim) if whole else f"{len(row.key)} bytes, not {4 * dim}"
        if problem:
            yield Problem("key", f"{row.namespace}/{row.id}", f"of version {row.number}: {problem}")


def _adapter(catalog: Catalog, adapter: str, shapes: Shapes | None, most: int | None) -> Iterator[Problem]:
    """What is wrong with an adapter that is named; it may have been forgotten since."""
    try:
        folder = adapter_folder(catalog, adapter)
        if shapes is not None:
            check_adapter(folder, shapes, max_rank=most, expected_digest=adapter)
        elif (found := adapter_digest(folder)) != adapter:
            raise AdapterError(folder, expected=f"SHA-256 {adapter}", found=found)
    except (BankError, AdapterError) as error:
        if adapter in named(catalog):
            yield Problem("adapter", str(Path(ADAPTERS, adapter[:2], adapter)), str(error))


def _leftovers(catalog: Catalog) -> Iterator[Problem]:
    """What nothing names: looked for on disk first, so that what is just being placed is claimed or named."""
    adapters, staged = on_disk(catalog), {path.name for path in (catalog.root / STAGING).iterdir()}
    wanted, tokens = claimed(catalog) | named(catalog), living(catalog)
    found = [("orphan", Path(ADAPTERS, name[:2], name)) for name in sorted(adapters - wanted)]
    found += [("staging", Path(STAGING, name)) for name in sorted(staged - tokens)]
    still = ((kind, path) for kind, path in found if (catalog.root / path).exists())
    yield from (Problem(kind, str(path), _SWEPT) for kind, path in still)
    for path in _strangers(catalog.root):
        yield Problem("stranger", str(path.relative_to(catalog.root)), "no part of a bank: move it elsewhere")


def _strangers(root: Path) -> Iterator[Path]:
    yield from sorted(path for path in root.iterdir() if path.name not in FILES)
    for path in sorted((root / ADAPTERS).glob("*/*")):
        if not DIGEST.fullmatch(path.name) or path.parent.name != path.name[:2]:
            yield path
