"""All keys of a bank at once, for whoever compares with them and does not follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.catalog.tables import memories, versions
from vllm_mega.errors import BankFormatError


class BankKeys(NamedTuple):
    """Keys of the versions that answer."""

    names: list[MemoryName]
    """N of them, the oldest memories first."""
    keys: npt.NDArray[np.float32]
    """[N, D], unit rows; row i belongs to `names[i]`."""


def read_keys(catalog: Catalog) -> BankKeys:
    """The keys of all memories that have one.

    Raises:
        BankFormatError: a key of another length than the bank's.
    """
    m, v = memories.c, versions.c
    query = sa.select(m.namespace, m.id, v.key).join(versions, (v.memory == m.row) & (v.number == m.current))
    with catalog.database.read() as connection:
        rows = connection.execute(query.where(v.key.is_not(None)).order_by(m.row)).all()
    matrix = key_matrix(catalog, [row.key for row in rows])
    return BankKeys([MemoryName(row.namespace, row.id) for row in rows], matrix)


def key_matrix(catalog: Catalog, keys: Sequence[bytes]) -> npt.NDArray[np.float32]:
    """Keys as the catalog keeps them, [N, D]; read-only.

    Raises:
        BankFormatError: one has another length than the bank's.
    """
    dim = catalog.embedder.dim
    if not {4 * dim}.issuperset(map(len, keys)):
        raise BankFormatError(f"{catalog.root}: expected keys of {4 * dim} bytes; run bank verify")
    return np.frombuffer(b"".join(keys), np.float32).reshape(len(keys), dim)
