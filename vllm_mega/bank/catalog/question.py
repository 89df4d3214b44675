"""The one question that a reader asks for every request: may there be a newer event?"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from vllm_mega.bank.catalog.database import Database
from vllm_mega.errors import BankError

_EVER = object()


class Question:
    """Keeps a connection of its own, and the answer of last time. For one thread at a time."""

    def __init__(self, database: Database) -> None:
        """Nothing is asked yet."""
        self._database = database
        self._query = "PRAGMA data_version" if database.sqlite else "SELECT last FROM counter"
        self._connection: sa.Connection | None = None
        self._cursor: Any = None
        self._last: object = _EVER

    def ask(self) -> bool:
        """Whether anything may have been committed since the last time; the first time: yes.

        Raises:
            BankError: the database cannot be reached.
        """
        try:
            answer = self._ask()
        except self._database.driver_error:
            answer = self._ask_again()
        changed = answer != self._last
        self._last = answer
        return changed

    def forget(self) -> None:
        """What the last answer told could not be done: say yes next time."""
        self._last = _EVER

    def close(self) -> None:
        """Let the connection go."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = self._cursor = None

    def _ask(self) -> object:
        if self._cursor is None:
            self._open()
        self._cursor.execute(self._query)
        return self._cursor.fetchall()[0][0]

    def _ask_again(self) -> object:
        """On a new connection: the server was started again, perhaps. Whatever it says, it may be new."""
        self.close()
        try:
            return self._ask()
        except self._database.driver_error as error:
            reason = str(error).split("\n")[0]
            raise BankError(f"the catalog {self._database.where} cannot be asked: {reason}") from error

    def _open(self) -> None:
        """The driver's own cursor, outside of any transaction. Answers of two connections do not compare."""
        self._last = _EVER
        options: dict[str, Any] = {} if self._database.sqlite else {"isolation_level": "AUTOCOMMIT"}
        with self._database.errors():
            self._connection = self._database.engine.connect().execution_options(**options)
            self._cursor = self._connection.connection.cursor()
