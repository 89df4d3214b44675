"""Batches of queries for the gate of an invented bank, and what the whole bank says of the best."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa

from loadtests.catalog_bulk import DIM, SETTINGS
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.tables import memories, versions
from vllm_mega.bank.layout import EmbedderInfo
from vllm_mega.bank.library import Library
from vllm_mega.config import GateSettings
from vllm_mega.gate.gate import Gate, Query
from vllm_mega.gate.index.index import Index
from vllm_mega.gate.selection import SCORE_DECIMALS
from vllm_mega.gate.vectors import Vectors, unit

BATCH = 32
_NOISE = 0.5
"""Length of what is added to a key to make a query: then their cosine is 0.9, nearly."""
_CHUNK = 20_000


class Given:
    """An embedder whose texts are numbers of vectors; others are sums of random directions."""

    info: EmbedderInfo = SETTINGS.embedder

    def __init__(self) -> None:
        self.vectors = np.zeros((0, DIM), np.float32)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """The vectors [n, D] that the numbers in `texts` stand for, or any of unit length."""
        if all(text.isdigit() for text in texts):
            return self.vectors[[int(text) for text in texts]]
        return unit(np.random.default_rng(0).normal(size=(len(texts), DIM)).astype(np.float32))

    def passages(self, text: str) -> list[str]:
        """Each text is one."""
        return [text]


class Asking:
    """Asks a gate, a batch at a time, and remembers what it says is best."""

    def __init__(self, library: Library, index: Index) -> None:
        self._library = library
        self._embedder = Given()
        self._gate = Gate(library, index, self._embedder)
        self._random = np.random.default_rng(7)
        self._ids = [row.id for row in library.rows.values() if row.adapter]
        self._best: list[str] = []

    def ask(self) -> float:
        """Seconds for a query of a batch, in the gate, embedding left out."""
        first = len(self._best)
        self._embedder.vectors = np.concatenate([self._embedder.vectors, self._queries()])
        queries = [Query(str(first + n), settings=GateSettings(threshold=-1.0)) for n in range(BATCH)]
        begin = time.perf_counter()
        decisions = self._gate.decide(queries)
        seconds = time.perf_counter() - begin
        self._best += [decision.hits[0].id for decision in decisions]
        return seconds / BATCH

    def agreement(self) -> float:
        """The part of the queries whose best memory is the exact one, of the bank as it is now."""
        best = exact_best(self._library.catalog, self._embedder.vectors)
        return float(np.mean([one == other for one, other in zip(self._best, best, strict=True)]))

    def _queries(self) -> Vectors:
        """[BATCH, D], each near to the key of a memory."""
        some = [self._ids[n] for n in self._random.integers(len(self._ids), size=BATCH)]
        versions = [self._library.version(self._library.get("default", one)) for one in some]
        keys = np.array([np.frombuffer(version.key or b"", np.float32) for version in versions])
        noise = unit(self._random.normal(size=keys.shape).astype(np.float32))
        return unit(keys + np.float32(_NOISE) * noise)


def exact_best(catalog: Catalog, queries: Vectors) -> list[str]:
    """The best memory with an adapter for each query [Q, D], by products in float64 with every key."""
    best = np.full(len(queries), -np.inf)
    ids = [""] * len(queries)
    m, v = memories.c, versions.c
    query = sa.select(m.id, v.key).join(versions, (v.memory == m.row) & (v.number == m.current))
    query = query.where(v.adapter.is_not(None))
    with catalog.database.read() as connection:
        rows = connection.execute(query.execution_options(yield_per=_CHUNK))
        for part in rows.partitions():
            keys = np.frombuffer(b"".join(row.key for row in part), np.float32).reshape(len(part), DIM)
            scores = (queries.astype(np.float64) @ keys.T.astype(np.float64)).round(SCORE_DECIMALS)
            for n in np.flatnonzero(scores.max(axis=1) >= best):
                top = scores[n].max()
                equal = [part[at].id for at in np.flatnonzero(scores[n] == top)]
                ids[n] = min([*equal, ids[n]] if top == best[n] else equal)
                best[n] = top
    return ids
