"""A reader that has all memories in its own memory, and applies what is new.

It reads everything once. Then it asks one question, as often as it likes: is there a newer event? On SQLite
that is a number of the connection (`PRAGMA data_version`), on PostgreSQL one row. Only if there is one does
it read the events, and the memories that they name.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog, read_settings
from vllm_mega.bank.catalog.events import last_event
from vllm_mega.bank.catalog.question import Question
from vllm_mega.bank.catalog.records import BankSettings, MemoryName, Row
from vllm_mega.bank.catalog.tables import events, links, memories, versions
from vllm_mega.errors import BankFormatError

_CHUNK = 10_000
"""Rows that are read at a time."""
_THE_BANK = MemoryName("", "")
"""Whom events about the settings name."""


class Keys(Protocol):
    """Who wants the keys: the gate's index. Called in the thread that refreshes, as the changes came."""

    def put(self, rows: Sequence[Row], keys: npt.NDArray[np.float32]) -> None:
        """Take keys [N, D]; row i belongs to `rows[i]`, and comes in place of what it had."""

    def drop(self, names: Sequence[MemoryName]) -> None:
        """Forget the keys of these memories, if they have some."""


class Follower:
    """All memories of a bank as they are now. Thread-safe; `rows` changes only inside `refresh`."""

    def __init__(self, catalog: Catalog, keys: Keys | None = None) -> None:
        """Read everything, keys only if somebody wants them.

        Raises:
            BankError: the catalog cannot be read.
        """
        self._catalog = catalog
        self._keys = keys
        self._rows: dict[MemoryName, Row] = {}
        self._lock = threading.Lock()
        self._question = Question(catalog.database)
        self.number = 0
        """Of the last event that is applied."""
        self.settings: BankSettings
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    @property
    def rows(self) -> Mapping[MemoryName, Row]:
        """Every memory by its name."""
        return MappingProxyType(self._rows)

    def refresh(self) -> int:
        """Apply what is new, all of it, if anything is; how many events.

        Raises:
            BankError: the catalog cannot be read; what was known stays.
        """
        with self._lock:
            if not self._question.ask():
                return 0
            try:
                return self._apply()
            except BaseException:
                self._question.forget()
                raise

    def close(self) -> None:
        """Let the connection go; the catalog stays open."""
        self._question.close()

    def _load(self) -> None:
        self._question.ask()
        with self._catalog.database.read() as connection:
            self.number = last_event(connection)
            self.settings = read_settings(connection)
            self._take(connection, None)

    def _apply(self) -> int:
        before = self.number
        with self._catalog.database.read() as connection:
            last = last_event(connection)
            if last == before:
                return 0
            named = _named_by_events(connection, before)
            found = self._take(connection, before)
            self._drop([name for name in named if name not in found and name in self._rows])
            if _THE_BANK in named:
                self.settings = read_settings(connection)
        self.number = last
        return last - before

    def _take(self, connection: sa.Connection, after: int | None) -> set[MemoryName]:
        """Read the rows of all memories, or of those that events later than `after` name."""
        linked = _links(connection, after)
        query = _select(self._keys is not None, after).execution_options(yield_per=_CHUNK)
        found: set[MemoryName] = set()
        for part in connection.execute(query).partitions():
            rows = [_row(row, linked.get(row.row, ())) for row in part]
            self._give_keys(rows, part)
            self._rows.update((row.name, row) for row in rows)
            if after is not None:
                found.update(row.name for row in rows)
        return found

    def _give_keys(self, rows: Sequence[Row], part: Sequence[sa.Row[Any]]) -> None:
        if self._keys is None:
            return
        have = [n for n, row in enumerate(part) if row.key is not None]
        if len(have) < len(rows):
            self._keys.drop([row.name for row, found in zip(rows, part, strict=True) if found.key is None])
        if have:
            self._keys.put([rows[n] for n in have], self._matrix([part[n].key for n in have]))

    def _matrix(self, keys: list[bytes]) -> npt.NDArray[np.float32]:
        dim = self._catalog.embedder.dim
        if any(len(key) != 4 * dim for key in keys):
            raise BankFormatError(f"{self._catalog.root}: expected keys of {4 * dim} bytes; run bank verify")
        return np.frombuffer(b"".join(keys), np.float32).reshape(len(keys), dim)

    def _drop(self, names: list[MemoryName]) -> None:
        if self._keys is not None and names:
            self._keys.drop(names)
        for name in names:
            del self._rows[name]


def _select(keys: bool, after: int | None) -> sa.Select[Any]:
    """The rows: the version that answers, with the newest's tags."""
    m, now, newest = memories.c, versions.alias("now"), versions.alias("newest")
    columns = [m.row, m.namespace, m.id, m.current, m.state, m.pinned, now.c.title, newest.c.tags]
    columns += [now.c.adapter, now.c.adapter_bytes, now.c.rank, *([now.c.key] if keys else [])]
    query = (
        sa.select(*columns)
        .join(now, (now.c.memory == m.row) & (now.c.number == m.current))
        .join(newest, (newest.c.memory == m.row) & (newest.c.number == m.newest))
    )
    return query if after is None else query.where(m.row.in_(_changed(after)))


def _row(row: sa.Row[Any], targets: tuple[str, ...]) -> Row:
    return Row(
        row.namespace, row.id, row.current, row.state, row.pinned, row.title, tuple(row.tags), targets,
        row.adapter, row.adapter_bytes, row.rank,
    )  # fmt: skip


def _links(connection: sa.Connection, after: int | None) -> dict[int, tuple[str, ...]]:
    query = sa.select(links.c.memory, links.c.target).order_by(links.c.memory, links.c.position)
    if after is not None:
        query = query.where(links.c.memory.in_(_changed(after)))
    found: dict[int, tuple[str, ...]] = {}
    for memory, target in connection.execute(query):
        found[memory] = (*found.get(memory, ()), target)
    return found


def _changed(after: int) -> sa.Select[Any]:
    return sa.select(events.c.memory).where(events.c.number > after)


def _named_by_events(connection: sa.Connection, after: int) -> set[MemoryName]:
    """No DISTINCT: for that SQLite would walk the whole index of names."""
    query = sa.select(events.c.namespace, events.c.id).where(events.c.number > after)
    return {MemoryName(*row) for row in connection.execute(query)}
