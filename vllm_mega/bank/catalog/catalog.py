"""A catalog, made or opened.

::

    BANK/
      bank.json            which catalog the folder belongs to
      catalog.sqlite       the catalog, unless it is in PostgreSQL (with -wal and -shm beside it)
      adapters/ab/abcd.../ PEFT adapters by their digest, immutable
      staging/             adapters on their way there
      receipt.key          signs receipts for forgotten memories, once there is one
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import sqlalchemy as sa

from vllm_mega.bank import files
from vllm_mega.bank.catalog import schema
from vllm_mega.bank.catalog.database import Database, is_sqlite, sqlite_url
from vllm_mega.bank.catalog.records import BankSettings
from vllm_mega.bank.catalog.tables import settings as settings_table
from vllm_mega.bank.layout import OLD_MANIFEST, EmbedderInfo
from vllm_mega.errors import BankError, BankFormatError, BankMismatchError, BankNotFoundError, ConfigError
from vllm_mega.jsonl import JsonError, decode
from vllm_mega.regular_file import read_regular

BANK_FILE = "bank.json"
CATALOG_FILE = "catalog.sqlite"
ADAPTERS = "adapters"
STAGING = "staging"
RECEIPT_KEY = "receipt.key"
FILES = {
    BANK_FILE, CATALOG_FILE, f"{CATALOG_FILE}-wal", f"{CATALOG_FILE}-shm", ADAPTERS, STAGING, RECEIPT_KEY,
}  # fmt: skip
"""All that a bank's folder has."""


class BankFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`bank.json`: a folder's adapters are swept by its own catalog, never by another."""

    bank: str
    """In the catalog's settings, too."""


@dataclass(frozen=True)
class Catalog:
    """An open catalog and the folder of its adapters; threads may share it, forked processes may not."""

    root: Path
    """Absolute."""
    database: Database
    embedder: EmbedderInfo
    """Of the settings; never changes."""

    @property
    def secret(self) -> str:
        """At random: whoever cannot read the bank does not know it.

        Raises:
            BankError: `bank.json` cannot be read.
        """
        return _read_bank_file(self.root).bank

    @property
    def name(self) -> str:
        """Of this bank and no other, 64 hex digits; tells nothing of its secret.

        Raises:
            BankError: as `secret`.
        """
        return hashlib.sha256(f"name of {self.secret}".encode()).hexdigest()

    def settings(self) -> BankSettings:
        """What holds for the whole bank, as it is now.

        Raises:
            BankFormatError: it is not what we write.
        """
        with self.database.read() as connection:
            return read_settings(connection)

    def close(self) -> None:
        """Close all connections; nothing is lost."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def create_catalog(root: Path | str, settings: BankSettings, url: str | None = None) -> Catalog:
    """Make an empty bank: a folder, and a catalog in it or at `url`.

    Args:
        root: a new or empty folder, or one where making a bank was cut off.
        settings: what holds for the whole bank.
        url: of an empty database, postgresql+psycopg://...; None: SQLite, in the folder.

    Raises:
        BankError: there is a bank, or something else; or disk or database refuse.
        ConfigError: `url` is of no database that we know.
    """
    root = Path(root).absolute()
    database = Database(_url(root, url))
    _refuse_strangers(root)
    with files.disk_errors(root):
        _make_folders(root)
        bank = _bank_file(root)
    with _closed_on_error(database):
        database.write(lambda connection: _fill(connection, database.where, settings, bank))
    return Catalog(root, database, settings.embedder)


def open_catalog(root: Path | str, url: str | None = None) -> Catalog:
    """Open the bank at `root`.

    Args:
        root: the bank's folder.
        url: where its catalog is, if not in the folder.

    Raises:
        BankNotFoundError: no bank there.
        BankFormatError: a bank of a format or a schema that this vllm_mega does not know.
        BankMismatchError: the catalog at `url` is that of another folder.
    """
    root = Path(root).absolute()
    _require_bank(root, url)
    database = Database(_url(root, url))
    with _closed_on_error(database):
        settings = _checked_settings(root, database)
    return Catalog(root, database, settings.embedder)


def read_settings(connection: sa.Connection) -> BankSettings:
    """The bank's settings, as this transaction sees them.

    Raises:
        BankFormatError: they are not what we write.
    """
    try:
        return msgspec.convert(_value(connection, "settings"), BankSettings)
    except msgspec.ValidationError as error:
        raise BankFormatError(f"the settings of the catalog are not ours: {error}") from error


def write_settings(connection: sa.Connection, settings: BankSettings) -> None:
    """Write the bank's settings, that were there, in this transaction."""
    mine = settings_table.c.name == "settings"
    value = msgspec.to_builtins(settings)
    connection.execute(sa.update(settings_table).where(mine).values(value=value))


def _value(connection: sa.Connection, name: str) -> object:
    query = sa.select(settings_table.c.value).where(settings_table.c.name == name)
    return connection.execute(query).scalar()


def _checked_settings(root: Path, database: Database) -> BankSettings:
    """The settings of a catalog that we know, and that belongs to the folder."""
    with database.read() as connection:
        found = schema.revision(connection)
    if found in schema.OLDER:
        database.write(schema.move_on)
    with database.read() as connection:
        schema.require_head(connection, database.where)
        known, settings = _value(connection, "bank"), read_settings(connection)
    if known != _read_bank_file(root).bank:
        raise BankMismatchError(
            f"the catalog {database.where} is not that of {root}: give the folder and the catalog of one bank"
        )
    return settings


@contextmanager
def _closed_on_error(database: Database) -> Iterator[None]:
    try:
        yield
    except BaseException:
        database.close()
        raise


def _url(root: Path, url: str | None) -> sa.URL:
    if url is None:
        return sqlite_url(root / CATALOG_FILE)
    try:
        made = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise ConfigError(
            "the catalog's URL cannot be read: expected postgresql+psycopg://user@host/database"
        ) from error
    if is_sqlite(made):
        raise ConfigError("SQLite's catalog is in the bank's folder: leave the catalog's URL out")
    return made


def _refuse_strangers(root: Path) -> None:
    if not root.exists():
        return
    if not root.is_dir():
        raise BankError(f"{root} is a file: a bank needs a folder")
    _refuse_old(root)
    if strangers := {path.name for path in root.iterdir()} - FILES:
        raise BankError(f"{root} is not empty (it has {min(strangers)}): choose another folder")
    if any(root.glob(f"{ADAPTERS}/*")):
        raise BankError(f"{root} holds a bank already: open it, or choose another folder")


def _refuse_old(root: Path) -> None:
    if (root / OLD_MANIFEST).exists():
        raise BankFormatError(
            f"{root} holds a bank of the old format ({OLD_MANIFEST}), which this vllm_mega does not read: "
            "make a new bank of its texts in another folder"
        )


def _require_bank(root: Path, url: str | None) -> None:
    _refuse_old(root)
    if not (root / BANK_FILE).exists():
        raise BankNotFoundError(f"{root} is not a bank: it has no {BANK_FILE}")
    if url is None and not (root / CATALOG_FILE).exists():
        raise BankNotFoundError(
            f"{root} has no {CATALOG_FILE}: if its catalog is in PostgreSQL, give its URL"
        )
    if url is None and not (root / CATALOG_FILE).is_file():
        raise BankFormatError(f"{root / CATALOG_FILE} is a folder, a pipe or a device, no regular file")


def _make_folders(root: Path) -> None:
    for folder in (root, root / ADAPTERS, root / STAGING):
        folder.mkdir(parents=True, exist_ok=True)
    files.sync_folder(root.parent)


def _bank_file(root: Path) -> str:
    """The bank's own name, from `bank.json`, which is made if need be."""
    if not (root / BANK_FILE).exists():
        staged = root / STAGING / uuid.uuid4().hex
        files.write_file(staged, msgspec.json.encode(BankFile(uuid.uuid4().hex)))
        files.move(staged, root / BANK_FILE)
        files.sync_folder(root)
    return _read_bank_file(root).bank


def _read_bank_file(root: Path) -> BankFile:
    path = root / BANK_FILE
    try:
        return decode(read_regular(path, 1000), BankFile)
    except OSError as error:
        raise BankError(f"{path} cannot be read: {error.strerror}") from error
    except JsonError as error:
        raise BankFormatError(f"{path}: not what we write: {error}") from error


def _fill(connection: sa.Connection, where: str, settings: BankSettings, bank: str) -> None:
    schema.make(connection, where)
    rows = [{"name": "bank", "value": bank}, {"name": "settings", "value": msgspec.to_builtins(settings)}]
    connection.execute(sa.insert(settings_table), rows)
