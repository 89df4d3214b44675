"""How much is in a bank, for those who watch it: counted by the database, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import msgspec
import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.records import State
from vllm_mega.bank.catalog.tables import jobs, memories, versions

JOB_STATES = ("waiting", "leased", "failed")


class Sizes(msgspec.Struct, frozen=True):
    """What a bank holds."""

    memories: Mapping[str, int]
    """By state, all states."""
    jobs: Mapping[str, int]
    """By state, all states: waiting for a trainer, leased by one, failed."""
    adapters: int
    """That a version names; versions of the same text share theirs."""
    adapter_bytes: int
    """Of these, on disk."""


def sizes(catalog: Catalog) -> Sizes:
    """What the bank holds now.

    Raises:
        BankError: the catalog cannot be read.
    """
    v = versions.c
    distinct = sa.select(v.adapter, v.adapter_bytes).where(v.adapter.is_not(None)).distinct().subquery()
    total = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(distinct.c.adapter_bytes), 0))
    with catalog.database.read() as connection:
        count, size = connection.execute(total.select_from(distinct)).one()
        by_state = _by_state(connection, memories, get_args(State))
        return Sizes(by_state, _by_state(connection, jobs, JOB_STATES), count, int(size))


def _by_state(connection: sa.Connection, table: sa.Table, states: tuple[str, ...]) -> dict[str, int]:
    query = sa.select(table.c.state, sa.func.count()).group_by(table.c.state)
    found = {state: count for state, count in connection.execute(query)}  # noqa: C416  # rows are no pairs
    return {state: found.get(state, 0) for state in states}
