"""A bank of N invented memories, written past the public functions: a million must not take a day."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from vllm_mega.bank.catalog import tables
from vllm_mega.bank.catalog.catalog import Catalog, create_catalog
from vllm_mega.bank.catalog.drafts import key_bytes
from vllm_mega.bank.catalog.records import BankSettings, Draft
from vllm_mega.bank.catalog.rows import version_values
from vllm_mega.bank.layout import BaseModelInfo, EmbedderInfo, NewMemory

DIM = 384
Key = npt.NDArray[np.float32]
CHUNK = 20_000
CLUSTERS = 1000
SETTINGS = BankSettings(BaseModelInfo("invented", "0"), EmbedderInfo("invented", "0", DIM))
WORDS = "the keeper of the lamp counts the boats that come home before the tide turns and writes them down"


def draft(number: int, key: Key | None = None) -> Draft:
    """The memory `number`, as it is added: 40 words, a tag and a key [D] (None: one of its own)."""
    text = f"Note {number}: {WORDS}; {WORDS}."
    memory = NewMemory(text, id=f"note-{number}", title=f"Note {number}", tags=(f"boat-{number % 100}",))
    return Draft(memory, _digest(text), key_bytes(_keys(number, 1)[0] if key is None else key))


def make(root: Path, count: int) -> None:
    """A bank of the memories 0..count-1 at `root`, each ready, with an adapter's digest and no adapter."""
    with create_catalog(root, SETTINGS) as catalog:
        for first in range(0, count, CHUNK):
            _load(catalog, first, min(CHUNK, count - first))
        catalog.database.erase()


def _load(catalog: Catalog, first: int, count: int) -> None:
    def act(connection: sa.Connection) -> None:
        connection.exec_driver_sql("PRAGMA cache_size=-500000")  # KiB: random digests fill an index
        for table, rows in _rows(first, count):
            connection.execute(sa.insert(table), rows)
        connection.execute(sa.update(tables.counter).values(last=first + count))

    catalog.database.write(act)


def _rows(first: int, count: int) -> Iterator[tuple[sa.Table, list[dict[str, Any]]]]:
    """All that `count` memories have in the tables."""
    numbers = range(first, first + count)
    yield tables.memories, [_memory(n) for n in numbers]
    yield tables.versions, [_version(n, key) for n, key in zip(numbers, _keys(first, count), strict=True)]
    yield tables.tags, [{"memory": n + 1, "tag": f"boat-{n % 100}"} for n in numbers]
    yield tables.events, [_event(n) for n in numbers]


def _event(n: int) -> dict[str, Any]:
    names = {"namespace": "default", "id": f"note-{n}", "who": "bench"}
    return {"number": n + 1, "memory": n + 1, "kind": "added", "version": 1, "at": 0.0, **names}


def _memory(n: int) -> dict[str, Any]:
    state = {"state": "ready", "newest": 1, "current": 1, "pinned": False}
    return {"row": n + 1, "namespace": "default", "id": f"note-{n}", "added": 0.0, "changed": 0.0, **state}


def _version(n: int, key: Key) -> dict[str, Any]:
    adapter = {"adapter": _digest(str(n)), "adapter_bytes": 10**6, "rank": 8, "recipe": "", "training": {}}
    return {
        "memory": n + 1,
        "number": 1,
        "who": "bench",
        "at": 0.0,
        **version_values(draft(n, key)),
        **adapter,
    }


def _keys(seed: int, count: int) -> Key:
    """[count, D], unit rows, in clusters: within one their cosines are about 0.5."""
    random = np.random.default_rng(seed)
    some = centres()[random.integers(CLUSTERS, size=count)]
    return _unit(some + _unit(random.normal(size=(count, DIM))))


def centres() -> Key:
    """Of the clusters of keys, [CLUSTERS, D], unit rows."""
    return _unit(np.random.default_rng(0).normal(size=(CLUSTERS, DIM)))


def _unit(vectors: npt.NDArray[Any]) -> Key:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
