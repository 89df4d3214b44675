"""Verifying a receipt: that its bank signed it, and that nothing of what it names is left there."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import CATALOG_FILE, Catalog
from vllm_mega.bank.catalog.check import Problem
from vllm_mega.bank.catalog.forgetting import Forgotten, Receipt
from vllm_mega.bank.catalog.store import adapter_folder
from vllm_mega.bank.catalog.tables import events, jobs, links, memories, tags, uses, versions
from vllm_mega.memories.receipts.key import read_key
from vllm_mega.memories.receipts.signing import SignedReceipt, public_key, signature_problem

_AT_A_TIME = 400
_DIGESTS = re.compile(rb"(?=([0-9a-f]{64}))")
"""Wherever one may begin: in SQLite's rows, columns follow each other without anything between."""
_STAYED = "a long read kept it, or the disk had no room: run bank sweep --rewrite"


def left(catalog: Catalog, receipt: SignedReceipt) -> list[Problem]:
    """What contradicts a receipt; nothing: the bank signed it, and what it names is gone.

    Looked for are events, rows, versions, links, tags and jobs of the memories; their texts, by digest, with
    any memory that has come since; files and names of their adapters; and all these digests, in the bytes
    of SQLite's files. PostgreSQL's own files are not looked at.

    Args:
        catalog: of the bank.
        receipt: as somebody has shown it.

    Raises:
        BankError: the catalog, its files or the bank's key cannot be read.
    """
    if problem := signature_problem(receipt, catalog.name, public_key(read_key(catalog))):
        return [Problem("receipt", "", problem)]
    gone = receipt.statement.forgotten
    digests = {version.text for memory in gone.memories for version in memory.versions}
    with catalog.database.read() as connection:
        there = _there(connection, sorted(digests))
        found = [problem for memory in gone.memories for problem in _memory(connection, memory)]
        named = _named(connection, gone.removed)
    found += _again(there, gone)
    found += [Problem("adapter", adapter, "a version names it again") for adapter in named]
    found += _files(catalog, gone.removed)
    alive = {row.text_digest for row in there}.union(named)
    return found + _bytes(catalog, digests.union(gone.removed) - alive)


def _memory(connection: sa.Connection, memory: Forgotten) -> Iterator[Problem]:
    """Its event is there, and no row is."""
    event, where = memory.event, f"{memory.event.namespace}/{memory.event.id}"
    said = {name: getattr(event, name) for name in event.__struct_fields__} | {"memory": memory.row}
    query = sa.select(sa.func.count()).where(*(events.c[name] == value for name, value in said.items()))
    if not connection.execute(query).scalar():
        yield Problem("event", where, f"the catalog has no event {event.number} that says so")
    of_memories = (versions, links, tags, jobs, uses)
    for column in (memories.c.row, *(table.c.memory for table in of_memories)):
        if connection.execute(sa.select(column).where(column == memory.row).limit(1)).first():
            yield Problem("memory", where, f"there are {column.table.name} of row {memory.row}")


def _there(connection: sa.Connection, digests: Sequence[str]) -> list[Any]:
    """Memories that have a version with one of these texts, and since when."""
    v = versions.c
    found: list[Any] = []
    query = sa.select(memories.c.namespace, memories.c.id, v.text_digest, sa.func.min(v.at).label("since"))
    query = query.join(memories, memories.c.row == v.memory)
    for some in _parts(digests):
        mine = query.where(v.text_digest.in_(some)).group_by(memories.c.row, v.text_digest)
        found += connection.execute(mine).all()
    return found


def _again(there: Sequence[Any], gone: Receipt) -> list[Problem]:
    """The texts that came back; what another memory had already is its own."""
    forgotten = {
        version.text: memory.event.at for memory in gone.memories for version in memory.versions
    }  # of two with the same text, the later: both were forgotten in one change
    return [
        Problem("text", f"{row.namespace}/{row.id}", "has the same text, stored since")
        for row in there
        if row.since > forgotten[row.text_digest]
    ]


def _named(connection: sa.Connection, adapters: Sequence[str]) -> list[str]:
    """Those of these adapters that versions name."""
    query = sa.select(versions.c.adapter).distinct()
    found: list[str] = []
    for some in _parts(adapters):
        found += connection.execute(query.where(versions.c.adapter.in_(some))).scalars()
    return found


def _files(catalog: Catalog, adapters: Sequence[str]) -> list[Problem]:
    folders = (adapter_folder(catalog, adapter) for adapter in adapters)
    return [
        Problem("adapter", str(folder.relative_to(catalog.root)), "its files are there: run bank sweep")
        for folder in folders
        if folder.exists()
    ]


def _bytes(catalog: Catalog, digests: set[str]) -> list[Problem]:
    """Rows that SQLite has deleted and not overwritten: a row of a version has the digest of its text."""
    if not catalog.database.sqlite:
        return []
    paths = (catalog.root / CATALOG_FILE, catalog.root / f"{CATALOG_FILE}-wal")
    found = {path.name: _digests_in(path) & digests for path in paths}
    return [
        Problem("bytes", name, f"has {len(some)} of the digests: {_STAYED}")
        for name, some in found.items()
        if some
    ]


def _digests_in(path: Path) -> set[str]:
    """Everything in the file that looks like a digest."""
    if not path.exists() or not path.stat().st_size:  # nothing can be mapped then
        return set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return {match[1].decode() for match in _DIGESTS.finditer(content)}


def _parts(digests: Sequence[str]) -> Iterator[Sequence[str]]:
    return (digests[start : start + _AT_A_TIME] for start in range(0, len(digests), _AT_A_TIME))
