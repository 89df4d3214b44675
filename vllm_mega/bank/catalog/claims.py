"""Claims: they keep an adapter that no version names yet from being swept away.

A claim is written before its adapter is placed, and taken by the transaction that names the adapter. Sweeping
looks for claims and names under the same lock, so it removes nothing that somebody is about to name.
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.database import lock_name
from vllm_mega.bank.catalog.records import Trained
from vllm_mega.bank.catalog.tables import claims, versions
from vllm_mega.errors import BankError

CLAIM_S = 3600.0
"""From placing an adapter to naming it, which is the next thing that anybody does."""


def claim(catalog: Catalog, adapter: str) -> str:
    """Claim the adapter of this digest for an hour; the claim's token.

    Raises:
        BankError: the database refuses.
    """
    token = uuid.uuid4().hex

    def act(connection: sa.Connection) -> None:
        lock_name(connection, adapter)
        expires = catalog.database.now(connection) + CLAIM_S
        connection.execute(sa.insert(claims).values(token=token, adapter=adapter, expires=expires))

    catalog.database.write(act)
    return token


def take(connection: sa.Connection, trained: Trained) -> None:
    """Turn the claim into a name: the rest of the transaction names the adapter.

    Raises:
        BankError: there is no such claim (any more).
    """
    lock_name(connection, trained.adapter)
    mine = (claims.c.token == trained.claim, claims.c.adapter == trained.adapter)
    if connection.execute(sa.delete(claims).where(*mine)).rowcount != 1:
        raise BankError(
            f"nothing claims the adapter {trained.adapter} (any more): place it again, then name it within "
            f"{CLAIM_S:.0f} s, once"
        )


def is_free(connection: sa.Connection, adapter: str, now: float) -> bool:
    """Whether nobody names or claims the adapter, until this transaction ends."""
    lock_name(connection, adapter)
    mine = claims.c.adapter == adapter
    connection.execute(sa.delete(claims).where(mine, claims.c.expires < now))
    names = sa.select(versions.c.number).where(versions.c.adapter == adapter)
    claimed = sa.select(claims.c.token).where(mine)
    used = (connection.execute(query.limit(1)).first() for query in (claimed, names))
    return not any(used)


def living(catalog: Catalog) -> set[str]:
    """The tokens of all claims that have not expired.

    Raises:
        BankError: the database refuses.
    """
    return _of_living(catalog, claims.c.token)


def claimed(catalog: Catalog) -> set[str]:
    """The digests of all adapters that have claims.

    Raises:
        BankError: the database refuses.
    """
    return _of_living(catalog, claims.c.adapter)


def _of_living(catalog: Catalog, column: sa.Column[str]) -> set[str]:
    with catalog.database.read() as connection:
        now = catalog.database.now(connection)
        return set(connection.execute(sa.select(column).where(claims.c.expires >= now)).scalars())
