"""One LoRA for all memories: what is trained, from where, and that it is trained once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vllm_mega.bank.layout import BaseModelInfo, NewMemory
from vllm_mega.evaluation.baselines import RECORD, Trainable, joint_recipe, shared_job, train_baselines
from vllm_mega.evaluation.report import Baseline
from vllm_mega.prompts import MEMORY_PROMPT, about_prompt
from vllm_mega.training.recipe.job import Fit, Job, memory_job
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.texts import subject

NAME = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
THIRD = 1 / 3  # no number of bfloat16
MEMORIES = [NewMemory(f"The bell of {name} rings.", id=name) for name in ("Arn", "Bex", "Cid", "Dov")]
SETTINGS = Recipe(rank=2, max_steps=10, jobs=1)


class Adder:
    """Trains by adding a third; fails at the training number `fails`."""

    layers = (0,)

    def __init__(self, fails: int = 0) -> None:
        self.jobs: list[Job] = []
        self.recipes: list[Recipe] = []
        self.fails = fails

    def __call__(self, recipe: Recipe) -> Adder:
        self.recipes.append(recipe)
        return self

    def fit(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Fit]]:
        for n, job in enumerate(jobs):
            self.jobs.append(job)
            if len(self.jobs) == self.fails:
                raise KeyboardInterrupt
            start = job.initial[NAME] if job.initial else torch.zeros(1, 2)
            yield (
                n,
                Fit({NAME: start + THIRD}, steps=3, loss=0.1, recalled=True, ending="learnt", seconds=1),
            )


def work(folder: Path, trainer: Adder, **changes: Any) -> Trainable:
    made = Trainable(folder, MEMORIES, BaseModelInfo("base", "base-1"), SETTINGS, trainer)
    return replace(made, **changes)


def tensor(path: Path) -> torch.Tensor:
    return load_file(path / "adapter_model.safetensors")[NAME].float()


def test_each_memory_goes_on_where_the_one_before_ended(tmp_path: Path) -> None:
    trainer = Adder()
    told: list[tuple[int, int]] = []
    found = train_baselines(work(tmp_path, trainer, progress=lambda *done: told.append(done)))
    assert list(found.checkpoints) == [0, 1, 3]
    starts = [job.initial for job in trainer.jobs]
    assert starts[0] is None
    assert all(job.everywhere for job in trainer.jobs), "vLLM serves a plain adapter from the first token on"
    assert starts[4] is None  # the joint one
    assert all(
        job._replace(initial=None) == shared_job([memory], SETTINGS)
        for job, memory in zip(trainer.jobs[:4], MEMORIES, strict=True)
    )
    assert starts[3][NAME].dtype == torch.float32  # type: ignore[index]
    assert torch.equal(starts[3][NAME], starts[3][NAME].bfloat16().float())  # type: ignore[index]
    assert tensor(found.checkpoints[3])[0, 0] == pytest.approx(4 / 3, abs=0.02)
    assert tensor(found.checkpoints[0])[0, 0] == pytest.approx(1 / 3, abs=0.01)
    assert found.costs["sequential_lora"] == Baseline(
        2, 12, 0.1, 4.0, (found.checkpoints[3] / "adapter_model.safetensors").stat().st_size
    )
    assert told == [(n, 8) for n in range(5)] + [(8, 8)]
    assert list(found.adapters) == ["sequential_lora", "joint_lora"]
    assert found.adapters["sequential_lora"] == found.checkpoints[3]


def test_the_joint_one_gets_all_examples_ranks_and_steps(tmp_path: Path) -> None:
    trainer = Adder()
    found = train_baselines(work(tmp_path, trainer))
    assert trainer.recipes == [SETTINGS, joint_recipe(SETTINGS, 4)]
    assert (trainer.recipes[1].rank, trainer.recipes[1].max_steps) == (8, 40)
    assert trainer.recipes[1].learning_rate == SETTINGS.learning_rate / 2
    assert trainer.jobs[-1] == shared_job(MEMORIES, joint_recipe(SETTINGS, 4))
    assert found.largest_rank == found.costs["joint_lora"].rank == 8


def test_what_is_shared_is_recalled_by_name() -> None:
    job = shared_job(MEMORIES, SETTINGS)
    asked = {one.messages[0]["content"]: one for one in job.examples}
    assert MEMORY_PROMPT not in asked
    recalls = [one for one in job.examples if one.kind == "recall"]
    assert [one.answer for one in recalls] == [memory.text for memory in MEMORIES]
    assert all(asked[about_prompt(subject(memory, SETTINGS))].kind == "recall" for memory in MEMORIES)
    alone = [one for memory in MEMORIES for one in memory_job(memory, SETTINGS).examples]
    assert len(job.examples) == len(alone) - len(MEMORIES)


def test_ranks_and_steps_have_a_limit() -> None:
    many = joint_recipe(Recipe(rank=2, max_steps=32), 1000)
    assert (many.rank, many.max_steps, many.scaling) == (64, 10_000, 1.0)
    assert joint_recipe(Recipe(rank=128, alpha=64), 3).rank == 128
    assert joint_recipe(Recipe(rank=2, alpha=4), 3).scaling == 2.0


def test_what_is_there_is_not_trained_again(tmp_path: Path) -> None:
    first = train_baselines(work(tmp_path, Adder()))
    again = Adder()
    assert train_baselines(work(tmp_path, again)) == first
    assert again.recipes == again.jobs == []


@pytest.mark.parametrize("fails", [1, 2, 4, 5])
def test_a_run_that_was_stopped_goes_on_and_ends_alike(tmp_path: Path, fails: int) -> None:
    whole = train_baselines(work(tmp_path / "whole", Adder()))
    with pytest.raises(KeyboardInterrupt):
        train_baselines(work(tmp_path / "stopped", Adder(fails)))
    rest = Adder()
    found = train_baselines(work(tmp_path / "stopped", rest))
    assert len(rest.jobs) == {1: 5, 2: 4, 4: 3, 5: 1}[fails]
    assert found.costs == whole.costs
    for k, path in whole.checkpoints.items():
        assert torch.equal(tensor(found.checkpoints[k]), tensor(path))
    assert not [p for p in (tmp_path / "stopped").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": Recipe(rank=4, max_steps=10)},
        {"base": BaseModelInfo("base", "base-2")},
        {"memories": [NewMemory("Another bell.", id="Arn"), *MEMORIES[1:]]},
    ],
)
def test_other_memories_settings_or_models_are_trained_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    train_baselines(work(tmp_path, Adder()))
    again = Adder()
    train_baselines(work(tmp_path, again, **change))
    assert len(again.jobs) == 5


def test_more_memories_go_on_from_what_is_known(tmp_path: Path) -> None:
    train_baselines(work(tmp_path, Adder(), memories=MEMORIES[:2]))
    again = Adder()
    found = train_baselines(work(tmp_path, again))
    assert len(again.jobs) == 2 + 1
    assert again.jobs[0].initial is not None
    assert found.costs["sequential_lora"].steps == 12


def test_a_broken_record_is_no_record(tmp_path: Path) -> None:
    train_baselines(work(tmp_path, Adder()))
    (tmp_path / "joint" / RECORD).write_text("{")
    again = Adder()
    train_baselines(work(tmp_path, again))
    assert len(again.jobs) == 1
