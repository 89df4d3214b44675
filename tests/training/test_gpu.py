"""Training on a GPU beside the CPU: equal losses and adapters in float32; what is called recalled, is."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.training.tiny import BELL, KETTLE, LAMP, SETTINGS
from vllm_mega.training.compute.truth import recite
from vllm_mega.training.recipe.encoding import encode
from vllm_mega.training.recipe.job import Fit, memory_job
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.run.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
MEMORIES = (KETTLE, LAMP, BELL)


def fits(trainer: Trainer) -> list[Fit]:
    found = dict(trainer.fit([memory_job(memory, trainer.recipe) for memory in MEMORIES]))
    return [found[n] for n in range(len(MEMORIES))]


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_steps_are_those_of_the_cpu(tiny: Path, steps: int) -> None:
    settings = msgspec.structs.replace(SETTINGS, jobs=3, max_steps=steps)
    for ours, cpu in zip(*(fits(Trainer(tiny, settings, device)) for device in ("cuda", "cpu")), strict=True):
        assert ours.loss == pytest.approx(cpu.loss, rel=1e-4)
        for name, tensor in cpu.tensors.items():
            torch.testing.assert_close(ours.tensors[name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_called_recalled_the_model_recites_on_the_cpu(
    tiny: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    plain = AutoModelForCausalLM.from_pretrained(tiny, dtype=dtype).eval()
    shutil.copytree(tiny, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    plain.save_pretrained(tmp_path / "model")
    trainer = Trainer(tmp_path / "model", msgspec.structs.replace(SETTINGS, jobs=3), "cuda")
    assert next(trainer.model.parameters()).dtype == dtype
    found = fits(trainer)
    jobs = [memory_job(memory, trainer.recipe) for memory in MEMORIES]
    texts = [encode(trainer.chat, job.examples[0], trainer.recipe.encoding) for job in jobs]
    verdicts = recite(
        plain,
        [fit.tensors for fit in found],
        texts,
        trainer.chat.end_ids,
        scaling=trainer.recipe.scaling,
        dtype=torch.bfloat16,
    )
    assert [fit.recalled for fit in found] == [verdict.recalled for verdict in verdicts] == [True] * 3


def test_defaults_choose_the_gpu(tiny: Path) -> None:
    trainer = Trainer(tiny, Recipe(jobs=1))
    assert trainer.device.type == "cuda"
    assert {p.device.type for p in trainer.model.parameters()} == {"cuda"}
