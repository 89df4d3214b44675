"""Rows and keys for tests of the index, and the gate as it was when it looked at all of a namespace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vllm_mega.bank.catalog.records import Row
from vllm_mega.config import GateSettings
from vllm_mega.gate.selection import NO_CHANCE, best_of, select
from vllm_mega.gate.twins import settled
from vllm_mega.gate.vectors import Vectors, unit

DIM = 16


def row(
    memory_id: str,
    *,
    namespace: str = "default",
    tags: Sequence[str] = (),
    links: Sequence[str] = (),
    adapter: str | None = "a" * 64,
    age: float = 0.0,
) -> Row:
    return Row(namespace, memory_id, 1, "ready", "", tuple(tags), tuple(links), adapter, age)


def vectors(random: np.random.Generator, count: int, dim: int = DIM) -> Vectors:
    """Unit vectors around a few directions, some of them equal and many near to each other."""
    centres = random.normal(size=(max(1, count // 8), dim))
    near = centres[random.integers(len(centres), size=count)] + random.normal(size=(count, dim)) * 0.3
    near[random.random(count) < 0.1] = centres[0]
    return unit(near.astype(np.float32))


def chosen_of_all(
    rows: Sequence[Row],
    keys: Vectors,
    passages: Vectors,
    settings: GateSettings,
    tags: Sequence[str],
    spread: float,
) -> tuple[list[tuple[str, int]], float | None]:
    """(id, steps) of the mixture, and the best score, from the scores of everybody in the namespace."""
    ids = [one.id for one in rows]
    at = {one: n for n, one in enumerate(ids)}
    among = np.array([set(tags) <= set(one.tags) for one in rows], bool)
    scores = np.where(among, best_of(keys, passages), NO_CHANCE)
    links = {
        n: [at[link] for link in one.links if link in at and among[at[link]]] for n, one in enumerate(rows)
    }
    open_scores = settled(scores, keys, [one.age for one in rows], ids, settings, spread)
    best = scores.max(initial=NO_CHANCE)
    chosen = [(ids[n], steps) for n, steps in select(open_scores, ids, settings, links)]
    return chosen, None if best == NO_CHANCE else float(best)
