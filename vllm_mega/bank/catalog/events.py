"""Numbered events: every change writes some, readers follow their numbers.

The counter is one row, raised as the last thing that a transaction does. Whoever raises it holds its lock
until the commit, so numbers come in the order of the commits and a reader never sees a number before all
smaller ones; a transaction that is rolled back takes its numbers with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.records import Event, EventKind, MemoryName
from vllm_mega.bank.catalog.rows import Held, require
from vllm_mega.bank.catalog.tables import counter, events
from vllm_mega.errors import MemoryChangedError

T = TypeVar("T")
_COLUMNS = (events.c.number, events.c.kind, events.c.namespace, events.c.id, events.c.version, events.c.who,
            events.c.at)  # fmt: skip
_STAMPS: tuple[EventKind, ...] = (
    "added", "updated", "linked", "pinned", "unpinned", "retired", "unretired", "dated",
)  # fmt: skip
"""By these somebody changes a memory; what trainers do to it changes nothing that anybody has said."""


class Change:
    """A transaction that changes the catalog: its connection, and the events that it will leave."""

    def __init__(self, connection: sa.Connection, who: str) -> None:
        """`who` changes it, for the history."""
        self.connection = connection
        self.who = who
        self.at = time.time()
        self._events: list[dict[str, Any]] = []

    def note(
        self, kind: EventKind, memory: int, name: MemoryName, version: int, who: str | None = None
    ) -> None:
        """Leave an event about the memory in row `memory`, whose newest version is `version`.

        It is by `who`; None: by whom the transaction is.
        """
        self._events.append({
            "memory": memory, "kind": kind, "namespace": name.namespace, "id": name.id,
            "version": version, "who": self.who if who is None else who, "at": self.at,
        })  # fmt: skip

    def write_events(self) -> list[Event]:
        """Number the events and write them; the last thing in a transaction."""
        count = len(self._events)
        if not count:
            return []
        raised = sa.update(counter).values(last=counter.c.last + count).returning(counter.c.last)
        first = int(self.connection.execute(raised).scalar_one()) - count + 1
        rows = [{"number": first + n, **event} for n, event in enumerate(self._events)]
        self.connection.execute(sa.insert(events), rows)
        return [Event(**{name: row[name] for name in Event.__struct_fields__}) for row in rows]


def change(catalog: Catalog, who: str, act: Callable[[Change], T]) -> T:
    """`act` as one change: all of it and its events, or nothing.

    Raises:
        BankError: the database refuses.
    """

    def run(connection: sa.Connection) -> T:
        changing = Change(connection, who)
        result = act(changing)
        changing.write_events()
        return result

    return catalog.database.write(run)


def last_event(connection: sa.Connection) -> int:
    """The number of the last event; 0: there is none."""
    return int(connection.execute(sa.select(counter.c.last)).scalar_one())


def find_stamp(connection: sa.Connection, name: MemoryName) -> int:
    """The stamp of a memory: number of the last event by which somebody changed it.

    0: there never was such a memory.
    """
    mine = (events.c.namespace == name.namespace, events.c.id == name.id, events.c.kind.in_(_STAMPS))
    newest = sa.select(events.c.number).where(*mine).order_by(events.c.number.desc()).limit(1)
    return connection.execute(newest).scalar() or 0


def require_stamp(connection: sa.Connection, name: MemoryName, stamp: int | None) -> Held:
    """As `rows.require`, of a memory that nobody has changed since it had this stamp; None: whatever it has.

    Raises:
        MemoryNotFoundError: no such memory.
        MemoryChangedError: it has another stamp by now.
    """
    held = require(connection, name)
    if stamp is not None and find_stamp(connection, name) != stamp:
        raise MemoryChangedError(
            f"memory {name.namespace}/{name.id} was changed since it was read: its newest version is "
            f"{held.newest}; read it again"
        )
    return held


def events_after(
    catalog: Catalog, number: int, limit: int = 1000, *, namespace: str | None = None
) -> list[Event]:
    """Events after `number`, at most `limit`, in order; those of a namespace, or of all and of the bank.

    Raises:
        BankError: the database refuses.
    """
    query = sa.select(*_COLUMNS).where(events.c.number > number).order_by(events.c.number).limit(limit)
    return _events(catalog, query if namespace is None else query.where(events.c.namespace == namespace))


def events_of(catalog: Catalog, namespace: str, memory_id: str) -> list[Event]:
    """All that ever happened to a memory, in order; also when it is forgotten, and nothing if it never was.

    Raises:
        BankError: the database refuses.
    """
    named = (events.c.namespace == namespace, events.c.id == memory_id)
    return _events(catalog, sa.select(*_COLUMNS).where(*named).order_by(events.c.number))


def last_version(connection: sa.Connection, name: MemoryName) -> int:
    """The highest version that a memory of this name ever had; 0: there was none."""
    named = (events.c.namespace == name.namespace, events.c.id == name.id)
    newest = sa.select(events.c.version).where(*named).order_by(events.c.number.desc()).limit(1)
    return connection.execute(newest).scalar() or 0


def _events(catalog: Catalog, query: sa.Select[Any]) -> list[Event]:
    with catalog.database.read() as connection:
        return [Event(*row) for row in connection.execute(query)]
