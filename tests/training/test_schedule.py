from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from vllm_mega.prompts import user
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.schedule import steps
from vllm_mega.training.recipe.texts import Example, Kind


def pool(**counts: int) -> list[Example]:
    kinds: list[Kind] = [kind for kind, count in counts.items() for _ in range(count)]  # type: ignore[misc]
    return [Example(user("?"), "!", kind) for kind in kinds]


EXAMPLES = pool(recall=2, question=10, informed=6)


@pytest.mark.parametrize("batch", [2, 8, 16])
def test_every_step_recalls_and_has_its_size(batch: int) -> None:
    for picked in islice(steps(EXAMPLES, Recipe(batch=batch), 0), 40):
        assert picked == sorted(set(picked))
        assert EXAMPLES[picked[0]].kind == "recall"
        assert len(picked) <= batch
    if batch == 8:
        assert all(len(picked) == batch for picked in islice(steps(EXAMPLES, Recipe(batch=batch), 0), 40))


def test_informed_questions_come_in_every_second_step() -> None:
    informed = [
        sum(EXAMPLES[n].kind == "informed" for n in picked)
        for picked in islice(steps(EXAMPLES, Recipe(batch=8), 0), 4)
    ]
    assert informed == [0, 3, 0, 3]


def test_all_examples_of_a_kind_are_used_equally_often() -> None:
    used = Counter(n for picked in islice(steps(EXAMPLES, Recipe(batch=8), 3), 60) for n in picked)
    for kind in ("recall", "question", "informed"):
        counts = [used[n] for n, example in enumerate(EXAMPLES) if example.kind == kind]
        assert max(counts) - min(counts) <= 1


def test_the_seed_decides_about_the_order() -> None:
    first, again, other = (list(islice(steps(EXAMPLES, Recipe(batch=8), seed), 6)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_kind_that_is_missing_is_left_out() -> None:
    for picked in islice(steps(pool(recall=1), Recipe(batch=8), 0), 4):
        assert picked == [0]
