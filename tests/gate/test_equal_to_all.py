"""The gate looks at the best candidates alone, and decides as if it had looked at everybody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import pytest

from tests.gate.index_samples import DIM, chosen_of_all, row, vectors
from vllm_mega.bank.catalog.records import Row
from vllm_mega.bank.library import Library
from vllm_mega.config import GateSettings
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.gate.gate import Gate, Query
from vllm_mega.gate.index.index import Index
from vllm_mega.gate.spread import spread
from vllm_mega.gate.vectors import Vectors

TAGS = ("", "red", "red green", "green")


class Still:
    """A library in which nothing happens."""

    @contextmanager
    def still(self) -> Iterator[int]:
        yield 1

    def component(self, row: Row, weight: float) -> tuple[str, str, float]:
        return row.adapter or "", f"/bank/{row.id}", weight


class Given(FakeEmbedder):
    """Texts are numbers of vectors, divided by spaces: each is a passage."""

    def __init__(self, vectors: Vectors) -> None:
        super().__init__(DIM)
        self.vectors = vectors

    def embed(self, texts: Sequence[str]) -> Vectors:
        if not all(text.isdigit() for text in texts):
            return super().embed(texts)  # of `spread`
        return self.vectors[[int(text) for text in texts]].reshape(-1, DIM)

    def passages(self, text: str) -> list[str]:
        return text.split()


def bank(random: np.random.Generator, count: int) -> tuple[list[Row], Vectors]:
    names = [f"m{n}" for n in random.permutation(count)]
    rows = [
        row(
            name,
            tags=str(random.choice(TAGS)).split(),
            links=[f"m{n}" for n in set(random.integers(count + 2, size=random.integers(3)))],
            age=float(random.integers(4)),
        )
        for name in names
    ]
    return rows, vectors(random, count)


def settings(random: np.random.Generator) -> GateSettings:
    return GateSettings(
        int(random.choice([1, 2, 5])),
        float(random.choice([-1.0, 0.2, 0.6, 0.9])),
        float(random.choice([0.0, 5.0, 25.0])),
        float(random.choice([0.0, 0.8, 1.0])),
    )


@pytest.mark.parametrize("count", [1, 7, 60, 700, 3000])
def test_the_same_as_from_all_scores(count: int) -> None:
    random = np.random.default_rng(count)
    rows, keys = bank(random, count)
    index = Index()
    index.put(rows, keys)
    embedder = Given(np.concatenate([keys[:20], vectors(random, 20)]))
    gate = Gate(cast("Library", Still()), index, embedder)
    queries = [
        Query(
            " ".join(str(n) for n in random.integers(len(embedder.vectors), size=random.integers(4))),
            settings=settings(random),
            tags=tuple(str(random.choice(TAGS)).split()),
        )
        for _ in range(60)
    ]
    decisions = gate.decide(queries)
    for query, decision in zip(queries, decisions, strict=True):
        passages = embedder.embed(embedder.passages(query.text))
        wanted = chosen_of_all(rows, keys, passages, query.settings, query.tags, spread(embedder))
        assert ([(hit.id, round(64 * hit.weight)) for hit in decision.hits], decision.best_score) == wanted
        assert gate.decide([query]) == [decision], "alone it is another"
        assert gate.explain(query, 3)[0] == decision
    assert gate.decide(queries[::-1]) == decisions[::-1]


def test_explain_shows_the_best_or_all() -> None:
    random = np.random.default_rng(5)
    rows, keys = bank(random, 500)
    index = Index()
    index.put(rows, keys)
    gate = Gate(cast("Library", Still()), index, Given(vectors(random, 4)))
    _, everybody = gate.explain(Query("1 2"))
    assert len(everybody) == gate.taking_part("default") == 500
    order = [(-(hit.score or 0), hit.id) for hit in everybody]
    assert order == sorted(order)
    assert gate.explain(Query("1 2"), 30)[1] == everybody[:30]
    red = [hit.id for hit in gate.explain(Query("1 2", tags=("red",)))[1]]
    assert set(red) == {one.id for one in rows if "red" in one.tags}
    assert len(red) == gate.taking_part("default", ("red",))
