"""A reader that has all memories in its own memory, and applies what is new.

It reads everything once. Then it asks one question, as often as it likes: is there a newer event? On SQLite
that is a number of the connection (`PRAGMA data_version`), on PostgreSQL one row. Only if there is one does
it read the events, and the memories that they name. What expires goes by the clock, whatever it hears of.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import repeat
from sys import intern
from typing import Any, Protocol, get_args

import msgspec
import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from vllm_mega.bank.catalog.all_rows import AllRows
from vllm_mega.bank.catalog.catalog import Catalog, read_settings
from vllm_mega.bank.catalog.events import last_event
from vllm_mega.bank.catalog.expirations import Expirations
from vllm_mega.bank.catalog.followed import (
    NAMED_BY_EVENTS,
    select_expirations,
    select_links,
    select_rows,
)
from vllm_mega.bank.catalog.keys import key_matrix
from vllm_mega.bank.catalog.question import Question
from vllm_mega.bank.catalog.records import BankSettings, MemoryName, Row, State

_CHUNK = 2_000
"""Rows that are read at a time: with their keys they stay in the cache."""
_THE_BANK = MemoryName("", "")
"""Whom events about the settings name."""
_STATES: dict[str, State] = {state: state for state in get_args(State)}
"""A million rows share four strings."""


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
        self._rows = AllRows()
        self._expirations = Expirations()
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
        """Every memory that may answer by its name; retired ones may not."""
        return self._rows

    def refresh(self) -> int:
        """Apply what is new, all of it, if anything is, and let go what has expired; how many events.

        Raises:
            BankError: the catalog cannot be read; what was known stays.
        """
        with self._lock:
            return self._refresh()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Apply what is new; until the end of the block nothing changes, rows and keys are of one event.

        Raises:
            BankError: as `refresh`.
        """
        with self._lock:
            self._refresh()
            yield

    def close(self) -> None:
        """Let the connection go; the catalog stays open."""
        self._question.close()

    def _refresh(self) -> int:
        count = self._apply_new() if self._question.ask() else 0
        if gone := self._expirations.over(time.time()):
            self._drop([name for name in gone if name in self._rows])
        return count

    def _apply_new(self) -> int:
        try:
            return self._apply()
        except BaseException:
            self._question.forget()
            raise

    def _load(self) -> None:
        self._question.ask()
        with self._catalog.database.read() as connection, _no_collections():
            self.number = last_event(connection)
            self.settings = read_settings(connection)
            self._take(connection, None)
            self._note_expirations(connection, None)

    def _apply(self) -> int:
        before = self.number
        with self._catalog.database.read() as connection:
            last = last_event(connection)
            if last == before:
                return 0
            named = {MemoryName(*row) for row in connection.execute(NAMED_BY_EVENTS, {"after": before})}
            found = self._take(connection, before)
            self._drop([name for name in named if name not in found and name in self._rows])
            for name in named:
                self._expirations.set(name, None)
            self._note_expirations(connection, before)
            if _THE_BANK in named:
                self.settings = read_settings(connection)
        self.number = last
        return last - before

    def _take(self, connection: sa.Connection, after: int | None) -> set[MemoryName]:
        """Read the rows of all memories, or of those that events later than `after` name."""
        linked = _links(connection, after)
        query = select_rows(keys=self._keys is not None, new=after is not None)
        values = {**_after(after), "now": time.time()}
        read = connection.execute(query, values, execution_options={"yield_per": _CHUNK})
        found: set[MemoryName] = set()
        for part in read.partitions():
            columns = list(zip(*part, strict=True))
            rows = _rows(linked, columns)
            if self._keys is not None:
                self._give_keys(self._keys, rows, columns[-1])
            self._rows.put(rows)
            if after is not None:
                found.update(row.name for row in rows)
        return found

    def _note_expirations(self, connection: sa.Connection, after: int | None) -> None:
        query = select_expirations(new=after is not None)
        for namespace, memory_id, at in connection.execute(query, _after(after)):
            self._expirations.set(MemoryName(namespace, memory_id), at)

    def _give_keys(self, taker: Keys, rows: Sequence[Row], keys: Sequence[bytes | None]) -> None:
        if None in keys:
            taker.drop([row.name for row, key in zip(rows, keys, strict=True) if key is None])
            rows = [row for row, key in zip(rows, keys, strict=True) if key is not None]
        if rows:
            taker.put(rows, key_matrix(self._catalog, [key for key in keys if key is not None]))

    def _drop(self, names: list[MemoryName]) -> None:
        if self._keys is not None and names:
            self._keys.drop(names)
        self._rows.drop(names)


def _rows(linked: Mapping[int, tuple[str, ...]], columns: Sequence[Sequence[Any]]) -> list[Row]:
    """From the columns of `select_rows`, without a loop of Python's: a million rows come at the start."""
    row, namespace, memory_id, version, state, title, tags, adapter, age, *_ = columns
    return list(
        map(
            Row, map(intern, namespace), memory_id, version, map(_STATES.__getitem__, state),
            title, map(_tags, tags), map(linked.get, row, repeat(())), adapter, age,
        )
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _tags(json: str) -> tuple[str, ...]:
    """Many memories have the same: they share them."""
    return msgspec.json.decode(json, type=tuple[str, ...])


def _after(after: int | None) -> dict[str, int]:
    return {} if after is None else {"after": after}


def _links(connection: sa.Connection, after: int | None) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for memory, target in connection.execute(select_links(new=after is not None), _after(after)):
        found[memory] = (*found.get(memory, ()), target)
    return found


@contextmanager
def _no_collections() -> Iterator[None]:
    """A million objects come and none goes: looking through them for garbage takes longer than reading."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
