"""The schema of a catalog: made and moved on by Alembic, refused when it is not ours."""

from __future__ import annotations

import sqlalchemy as sa

from vllm_mega.bank.catalog.database import lock_name
from vllm_mega.errors import BankFormatError, BankNotFoundError

HEAD = "4"
"""The newest revision in `migrations`; known here so that opening a catalog does not import Alembic."""
OLDER = ("1", "2", "3")
"""Those that are moved on to it."""


def revision(connection: sa.Connection) -> str | None:
    """The schema that the database has; None: no catalog there."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def require_head(connection: sa.Connection, where: str) -> None:
    """Refuse a schema that this vllm_mega does not know.

    Raises:
        BankNotFoundError: there is no schema at all.
        BankFormatError: says which was found and which was expected.
    """
    found = revision(connection)
    if found is None:
        raise BankNotFoundError(f"{where} holds no catalog: making it was cut off; make the bank again")
    if found != HEAD:
        raise BankFormatError(
            f"the catalog {where} has schema {found}, and this vllm_mega knows schema {HEAD}: "
            "use the version of vllm_mega that wrote it"
        )


def move_on(connection: sa.Connection) -> None:
    """Bring an older schema to `HEAD`, in the caller's transaction; nothing if another was faster.

    Processes that have the catalog open go on: what comes is tables and columns that they do not ask for.
    """
    lock_name(connection, "schema")
    upgrade(connection)


def make(connection: sa.Connection, where: str) -> None:
    """Make all tables, in the caller's transaction.

    Raises:
        BankFormatError: there is something already.
    """
    lock_name(connection, "schema")
    if (found := revision(connection)) is not None:
        raise BankFormatError(f"{where} holds a catalog already (schema {found}): open it")
    if strangers := sa.inspect(connection).get_table_names():
        raise BankFormatError(f"{where} has other tables ({min(strangers)}): give an empty database")
    upgrade(connection)


def upgrade(connection: sa.Connection) -> None:
    """Run every migration that the database has not seen, in the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "vllm_mega.bank.catalog:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
