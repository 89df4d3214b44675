"""A year of a bank in use: what is asked for stays in front among equals, what is not fades, nothing drowns.

Two hundred memories, in pairs about one subject each, that a query can hardly tell apart. Interest in
subjects is Zipf's, and drifts: every two months others are in fashion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from tests.gate.index_samples import row
from tests.gate.test_equal_to_all import Still
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.catalog.uses import AllUses, Use
from vllm_mega.bank.library import Library
from vllm_mega.config import GateSettings
from vllm_mega.gate import uses as module
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.gate.gate import Decision, Gate, Query
from vllm_mega.gate.index.index import Index
from vllm_mega.gate.salience import REST, Salience
from vllm_mega.gate.uses import UseTracker
from vllm_mega.gate.vectors import Vectors

DAY = 86_400.0
HALF_LIFE = 30 * DAY
MARGIN, APART = 0.02, 0.002
"""The first of a pair is nearer to its subject by so much."""
SUBJECTS, STRAY, A_DAY, FASHION = 100, 60, 60, 61
MEMORIES = 2 * SUBJECTS
SETTINGS = GateSettings(top_k=1)


class Given(FakeEmbedder):
    """Texts are numbers of vectors."""

    def __init__(self, vectors: Vectors) -> None:
        super().__init__(vectors.shape[1])
        self.vectors = vectors

    def embed(self, texts: Any) -> Vectors:
        if not all(text.isdigit() for text in texts):
            return super().embed(texts)
        return self.vectors[[int(text) for text in texts]]


class Open(Still):
    def close(self) -> None:
        """There is nothing to close."""


@dataclass
class Table:
    """The catalog's table of uses, in memory: a year of commits would be waited for."""

    used: dict[MemoryName, Use] = field(default_factory=dict)

    def add(self, _: object, times: Mapping[MemoryName, float], strengthen: Any) -> None:
        for name, at in times.items():
            self.used[name] = strengthen(self.used.get(name), at)

    def read(self, _: object) -> AllUses:
        return AllUses(dict(self.used), frozenset())


def keys() -> tuple[Vectors, Vectors]:
    """Of the memories [200, D], and of the subjects [100, D]: each its own direction."""
    found = np.zeros((MEMORIES, 3 * SUBJECTS), np.float32)
    for n in range(MEMORIES):
        nearness = 0.8 - APART * (n % 2)
        found[n, n // 2], found[n, SUBJECTS + n] = nearness, np.sqrt(1 - nearness**2)
    return found, np.eye(SUBJECTS, 3 * SUBJECTS, dtype=np.float32)


@dataclass
class Year:
    """A gate with use, the same without, and who was used when."""

    gate: Gate
    plain: Gate
    random: np.random.Generator
    now: float = 1e9
    log: dict[int, list[float]] = field(default_factory=lambda: {n: [] for n in range(MEMORIES)})

    @property
    def tracker(self) -> UseTracker:
        assert self.gate.uses is not None
        return self.gate.uses

    def day(self, favoured: np.ndarray, odds: np.ndarray) -> None:
        """People ask about subjects, and mean mostly one of the two memories, whose name they say."""
        for subject in self.random.choice(SUBJECTS, A_DAY, p=odds):
            memory = 2 * int(subject) + int(favoured[subject])
            self.log[memory].append(self.now)
            self.tracker.note([name(memory)])
            self.now += DAY / A_DAY
        self.tracker.exchange()

    def lately(self, memory: int, days: float) -> int:
        """Different days of the last `days` on which it was used."""
        return len({int(at / DAY) for at in self.log[memory] if at >= self.now - days * DAY})


def name(memory: int) -> MemoryName:
    return MemoryName("default", f"m{memory:03d}")


@pytest.fixture
def year(monkeypatch: pytest.MonkeyPatch) -> Iterator[Year]:
    table = Table()
    monkeypatch.setattr(module, "add_uses", table.add)
    monkeypatch.setattr(module, "read_uses", table.read)
    of_memories, subjects = keys()
    index, library = Index(), cast("Library", Open())
    index.put([row(name(n).id) for n in range(MEMORIES)], of_memories)
    random = np.random.default_rng(14)
    stray = random.normal(size=(STRAY, subjects.shape[1]))
    embedder = Given(np.concatenate([subjects, mixed(random, of_memories), stray]).astype(np.float32))
    clock: Callable[[], float] = lambda: made.now  # noqa: E731
    tracker = UseTracker(cast("Any", None), Salience(MARGIN, HALF_LIFE), clock=clock)
    made = Year(Gate(library, index, embedder, tracker), Gate(library, index, embedder), random)
    yield made
    made.gate.close()


def mixed(random: np.random.Generator, of_memories: Vectors) -> Vectors:
    """Queries [60, D] that are about several memories at once, some nearer than others."""
    parts = of_memories[random.integers(MEMORIES, size=(STRAY, 3))] * random.uniform(0.5, 1.0, (STRAY, 3, 1))
    found = parts.sum(1)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def answers(gate: Gate, queries: range) -> list[Decision]:
    return gate.decide([Query(str(n), settings=SETTINGS) for n in queries])


def won(decisions: list[Decision]) -> list[int]:
    return [int(decision.hits[0].id[1:]) for decision in decisions]


def zipf(random: np.random.Generator) -> np.ndarray:
    """How often each subject is asked for, [100]; who is in fashion is at random."""
    ranks = random.permutation(SUBJECTS) + 1
    odds = ranks**-1.5
    return odds / odds.sum()


def test_a_year(year: Year) -> None:
    seen = dict.fromkeys(("in use", "faded", "untouched"), 0)
    for day in range(365):
        if day % FASHION == 0:
            favoured, odds = year.random.integers(2, size=SUBJECTS), zipf(year.random)
        year.day(favoured, odds)
        if day % 30 == 29:
            look(year, seen)
        if day % 90 == 89:
            require_distant_ones_in_order(year)
    assert min(seen.values()) >= 20, f"the year has shown too little: {seen}"


def look(year: Year, seen: dict[str, int]) -> None:
    """Of each pair, who of the two wins, and whether he should."""
    for subject, winner in enumerate(won(answers(year.gate, range(SUBJECTS)))):
        first, second = 2 * subject, 2 * subject + 1
        recent = [year.lately(memory, 45) for memory in (first, second)]
        ever = [bool(year.log[memory]) for memory in (first, second)]
        if not any(ever):
            assert winner == first, "nobody was used: the nearer one"
            seen["untouched"] += 1
        elif recent[1] >= 5 and not ever[0]:
            assert winner == second, "near ties go to who is in use"
            seen["in use"] += 1
        for old, new in ((0, 1), (1, 0)):
            if year.lately(2 * subject + old, 90) == 0 and ever[old] and recent[new] >= 10:
                assert winner == 2 * subject + new, "after three half-lives, what was in fashion has faded"
                seen["faded"] += 1


def require_distant_ones_in_order(year: Year) -> None:
    """Whoever wins is within the margin of the nearest; where no other is that near, nothing has changed."""
    queries = range(SUBJECTS, len(cast("Given", year.gate._embedder).vectors))
    for query, decision, plain in zip(
        queries, answers(year.gate, queries), answers(year.plain, queries), strict=True
    ):
        assert decision.best_score == plain.best_score
        assert bool(decision.hits) == bool(plain.hits)
        if not plain.hits:
            continue
        _, others = year.plain.explain(Query(str(query), settings=SETTINGS), 2)
        best, next_best = (hit.score or 0.0 for hit in others)
        assert (decision.hits[0].score or 0.0) >= best - MARGIN - 1e-9
        if best - next_best > MARGIN + 1e-9:
            assert decision == plain


def test_a_million_uses_drown_nobody(year: Year) -> None:
    """Asked every 30 seconds for a year, a memory is as strong as one that is asked every hour."""
    loud = 1
    for n in range(1_000_000):
        year.tracker.note([name(loud)])
        year.now += 30.0
        if n % 120 == 0:
            year.tracker.exchange()
    standing = year.tracker.standing(name(loud))
    assert standing.strength <= 1 / (1 - 2 ** (-REST / HALF_LIFE))
    assert standing.salience <= 15 / 16
    assert won(answers(year.gate, range(SUBJECTS)))[0] == loud, "among equals it wins"
    require_distant_ones_in_order(year)
    quiet = won(answers(year.gate, range(1, SUBJECTS)))
    assert quiet == won(answers(year.plain, range(1, SUBJECTS))), "other subjects do not hear of it"
    year.now += 10 * HALF_LIFE
    assert won(answers(year.gate, range(1)))[0] == 0, "and it is forgotten like any other"
