"""Which examples a step uses. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.texts import Example, Kind


def steps(examples: Sequence[Example], recipe: Recipe, seed: int) -> Iterator[list[int]]:
    """Endless; each step some `recipe.batch` indices into `examples`, ascending.

    Every kind goes round in an order of its own, so that all are used equally often. Questions with the text
    in the context come in every second step only, several at a time: they share the context.
    """
    chance = random.Random(seed)  # noqa: S311  (not a secret)
    rounds = {kind: _round(examples, kind, chance) for kind in ("recall", "question", "informed")}
    batch = recipe.batch
    recalls = max(1, batch // recipe.recalls)
    while True:
        for informed in (0, (batch - recalls) // 2):
            wanted = {"recall": recalls, "question": batch - recalls - informed, "informed": informed}
            picked = {n for kind, count in wanted.items() for n in _take(rounds[kind], count)}
            yield sorted(picked)


def _round(examples: Sequence[Example], kind: Kind, chance: random.Random) -> list[int]:
    numbers = [n for n, example in enumerate(examples) if example.kind == kind]
    if kind != "recall":
        chance.shuffle(numbers)
    return numbers


def _take(rest: list[int], count: int) -> list[int]:
    """The next `count` of a round, which goes on behind them."""
    taken = rest[:count]
    rest[:] = rest[count:] + taken
    return taken
