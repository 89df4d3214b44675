"""Requests that shall be done once, however often they are sent.

Whoever sends one gives it a key. What is done about it and a row with the key are one transaction: after a
crash there are both or neither, and of two at once one waits for the other and finds its row. A row has
digests, and of the answer what tells nothing of memories but their names; it is kept for a day.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.database import Database
from vllm_mega.bank.catalog.tables import idempotency
from vllm_mega.errors import KeyReusedError

KEPT_S = 24 * 3600.0
"""Then a key is as good as new."""
T = TypeVar("T")


class Once(msgspec.Struct, frozen=True):
    """A request that shall be done once."""

    namespace: str
    key: str
    """Digest of the key that its sender gave it."""
    request: str
    """Digest of all that it asks."""


class AlreadyDone(Exception):  # noqa: N818  # no error: a request that came twice
    """Somebody has done it; `kept` is what he kept of his answer."""

    def __init__(self, kept: Any) -> None:
        super().__init__("the request was done before")
        self.kept = kept


def require_new(catalog: Catalog, once: Once) -> None:
    """Go on only with a request that was not done.

    Raises:
        AlreadyDone: it was.
        KeyReusedError: its key was given to another request.
    """
    with catalog.database.read() as connection:
        _require_new(connection, once)


def noting(catalog: Catalog, once: Once, kept: Callable[[Any], Any]) -> Catalog:
    """The same catalog, for one change: that is done only if the request was not, and leaves its row.

    Args:
        catalog: of which bank.
        once: the request.
        kept: of what the change's transaction returns, what the answer can be made of again (JSON).
    """
    return replace(catalog, database=_Noting(catalog.database, once, kept))


def is_old(now: float) -> sa.ColumnElement[bool]:
    """Whether a row of `idempotency` has been kept long enough."""
    return idempotency.c.at <= now - KEPT_S


class _Noting(Database):
    """A database whose first transaction is the change."""

    def __init__(self, database: Database, once: Once, kept: Callable[[Any], Any]) -> None:
        vars(self).update(vars(database))
        self._once, self._kept, self._done = once, kept, False

    def write(self, act: Callable[[sa.Connection], T]) -> T:
        """As that of the database.

        Raises:
            AlreadyDone, KeyReusedError: as `require_new`; then nothing has changed.
        """
        if self._done:
            return super().write(act)

        def run(connection: sa.Connection) -> T:
            _require_new(connection, self._once)
            result = act(connection)
            _note(connection, self._once, self._kept(result))
            return result

        result = super().write(run)
        self._done = True
        return result


def _require_new(connection: sa.Connection, once: Once) -> None:
    i = idempotency.c
    query = sa.select(i.request, i.kept).where(*_mine(once), sa.not_(is_old(time.time())))
    found = connection.execute(query).one_or_none()
    if found is None:
        return
    if found.request != once.request:
        raise KeyReusedError("another request had this key within a day: give each request its own")
    raise AlreadyDone(found.kept)


def _note(connection: sa.Connection, once: Once, kept: Any) -> None:
    """Leave the row; where somebody was faster, the database refuses it, and the transaction begins again."""
    now = time.time()
    connection.execute(sa.delete(idempotency).where(*_mine(once), is_old(now)))
    connection.execute(sa.insert(idempotency).values(**msgspec.structs.asdict(once), kept=kept, at=now))


def _mine(once: Once) -> tuple[sa.ColumnElement[bool], ...]:
    return (idempotency.c.namespace == once.namespace, idempotency.c.key == once.key)
