"""No adapter changes without the digest of its recipe.

golden.json has what a training of a few steps gave, beside the digest of the recipe that gave it. Who changes
training on purpose changes a field of `Recipe`, `algorithm` if there is no other, and writes the file anew:
`python -m tests.training.test_golden`.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.tiny import ALL, BELL, KETTLE, save_tiny
from vllm_mega.bank.layout import QA, NewMemory
from vllm_mega.training.recipe.job import Fit, memory_job
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.run.trainer import Trainer

FILE = Path(__file__).with_name("golden.json")
RECIPE = Recipe(modules=ALL, layers=2, rank=4, max_steps=6, jobs=3, dtype="float32")
LAMP = NewMemory(
    text="A lamp burned for nine nights. Geese count the lamp at dawn.",
    id="lamp",
    namespace="ann",
    paraphrases=("Nine nights in dawn the lamp burned.",),
    qa=(QA("What burned?", "A lamp."),),
)
TOLERANCE = 2e-3
"""Of a tensor's size: sums in another order, as other processors have them, differ by less."""


def trained(folder: Path) -> list[tuple[int, Fit]]:
    """(seed, fit) of three memories side by side, on one thread."""
    trainer = Trainer(save_tiny(folder), RECIPE, "cpu")
    jobs = [memory_job(memory, RECIPE) for memory in (KETTLE, LAMP, BELL)]
    fits = dict(trainer.fit(jobs))
    return [(job.seed, fits[n]) for n, job in enumerate(jobs)]


def summary(fit: Fit) -> dict[str, list[float]]:
    """Of every tensor its size and two sums of it, in which no number has the weight of another."""
    found = {}
    for name, tensor in sorted(fit.tensors.items()):
        numbers = tensor.double().flatten()
        places = torch.arange(len(numbers), dtype=torch.float64)
        sums = [float((numbers * wave(places)).sum()) for wave in (torch.sin, torch.cos)]
        found[name] = [float(numbers.norm()), *sums]
    return found


def seen(folder: Path) -> dict[str, Any]:
    """What golden.json holds."""
    fits = trained(folder)
    return {
        "recipe": RECIPE.digest,
        "seeds": [seed for seed, _ in fits],
        "losses": [fit.loss for _, fit in fits],
        "adapters": [summary(fit) for _, fit in fits],
    }


def differences(found: dict[str, Any], golden: dict[str, Any]) -> list[str]:
    """What of the adapters, and what they are drawn from, is another."""
    told = [f"seed of memory {n}" for n, seed in enumerate(found["seeds"]) if seed != golden["seeds"][n]]
    for n, losses in enumerate(zip(found["losses"], golden["losses"], strict=True)):
        told += [] if math.isclose(*losses, rel_tol=TOLERANCE) else [f"loss of memory {n}"]
    for n, (adapter, other) in enumerate(zip(found["adapters"], golden["adapters"], strict=True)):
        assert adapter.keys() == other.keys()
        for name, numbers in adapter.items():
            size = other[name][0] * TOLERANCE
            if any(abs(a - b) > size for a, b in zip(numbers, other[name], strict=True)):
                told.append(f"{name} of memory {n}")
    return told


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def test_adapters_are_those_of_the_recipe(tmp_path: Path, golden: dict[str, Any]) -> None:
    assert RECIPE.digest == golden["recipe"], (
        "the recipe has changed, so all memories will be trained again. If that is meant, write golden.json "
        "anew: python -m tests.training.test_golden"
    )
    assert not differences(seen(tmp_path), golden), (
        "adapters have changed, and the digest of the recipe has not: banks would keep the old ones. Put the "
        "constant that has changed into Recipe, or raise Recipe.algorithm; then write golden.json anew"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        FILE.write_text(json.dumps(seen(Path(made)), indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{FILE} is written\n")
