"""Transactions on SQLite and PostgreSQL: short, retried where the database asks for it, errors as ours."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from vllm_mega.errors import BankError, BankFormatError, ConfigError

BUSY_S = 60.0
"""How long a writer waits for the others on SQLite."""
_ATTEMPTS = 10
_AGAIN = {"40001", "40P01"}
"""PostgreSQL: could not serialize; deadlock."""
_UNREADABLE = ("file is not a database", "disk image is malformed")
T = TypeVar("T")


class Database:
    """One database, several connections; may be used from several threads, not across a fork."""

    def __init__(self, url: sa.URL) -> None:
        """Nothing is opened yet.

        Raises:
            ConfigError: neither SQLite nor PostgreSQL, or its driver is not installed.
        """
        self.where = url.database or "" if is_sqlite(url) else url.render_as_string(hide_password=True)
        self.sqlite = is_sqlite(url)
        self.engine = _engine(url)
        if self.sqlite:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)

    def write(self, act: Callable[[sa.Connection], T]) -> T:
        """`act` in one transaction that no other writer can spoil; it may run several times.

        Raises:
            BankError: the database refuses, is busy for too long, or cannot be reached.
        """
        with self.errors():
            for _ in range(_ATTEMPTS - 1):
                try:
                    return self._write_once(act)
                except DBAPIError as error:
                    if not _worth_another(error):
                        raise
            return self._write_once(act)

    def _write_once(self, act: Callable[[sa.Connection], T]) -> T:
        with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            return act(connection)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees the database as it is at its first statement, however many follow.

        Raises:
            BankError: the database cannot be read or reached.
        """
        options: dict[str, Any] = {} if self.sqlite else {"isolation_level": "REPEATABLE READ"}
        with (
            self.errors(),
            self.engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            yield connection

    def now(self, connection: sa.Connection) -> float:
        """The time that leases go by: all hosts ask the server, processes of one host their clock."""
        if self.sqlite:
            return time.time()
        return float(connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())").scalar_one())

    def erase(self, *, rewrite: bool = False) -> bool:
        """On SQLite: bring deleted content out of the files; whether it is.

        False: a reader was in the way, or there is no room to write the file anew. PostgreSQL does it in its
        own time: always False.

        Args:
            rewrite: write the whole file anew: as long as that takes, nobody else can write.

        Raises:
            BankError: the disk refuses.
        """
        if not self.sqlite:
            return False
        with self.errors(), self.engine.connect() as connection:
            cursor = _driver(connection).cursor()
            try:
                if rewrite:
                    cursor.execute("VACUUM")
                return not cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            except sqlite3.OperationalError:
                return False
            finally:
                cursor.close()

    def close(self) -> None:
        """Close all connections; the database can still be used."""
        self.engine.dispose()

    @property
    def driver_error(self) -> type[Exception]:
        """What the driver itself raises."""
        error: type[Exception] = self.engine.dialect.loaded_dbapi.Error
        return error

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Around what uses the database: its errors as ours.

        Raises:
            BankError: whatever SQLAlchemy raised, in one line.
        """
        try:
            yield
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
            kind = BankFormatError if any(sign in reason for sign in _UNREADABLE) else BankError
            raise kind(f"the catalog {self.where} refused: {reason}") from error


def is_sqlite(url: sa.URL) -> bool:
    return url.get_backend_name() == "sqlite"


def sqlite_url(path: Path) -> sa.URL:
    return sa.URL.create("sqlite", database=str(path))


def lock_name(connection: sa.Connection, name: str) -> None:
    """Let nobody else pass with `name` until this transaction ends; writers of SQLite are alone anyway."""
    if connection.dialect.name == "postgresql":
        number = sa.func.hashtextextended(name, 0)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


def _engine(url: sa.URL) -> sa.Engine:
    if not is_sqlite(url) and url.drivername != "postgresql+psycopg":
        raise ConfigError(
            f"a catalog is a folder's own, or postgresql+psycopg://user@host/database, not {url.drivername}://"
        )
    try:
        return sa.create_engine(
            url,
            json_serializer=_json,
            json_deserializer=msgspec.json.decode,
            pool_pre_ping=not is_sqlite(url),
        )
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(
            f"a catalog in PostgreSQL needs psycopg: pip install 'vllm-mega[postgres]' ({error})"
        ) from error


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.dbapi_connection


def _prepare_sqlite(connection: DBAPIConnection, _: object) -> None:
    """Transactions begin where we say; deleted content is overwritten; a commit is on disk."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={round(1000 * BUSY_S)}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    """Writers take their turn at once: a reader that becomes one would be refused."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _worth_another(error: DBAPIError) -> bool:
    """Two added the same memory at once, or PostgreSQL chose this transaction to give way."""
    return isinstance(error, IntegrityError) or getattr(error.orig, "sqlstate", "") in _AGAIN
