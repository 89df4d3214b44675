"""Training follows what a model computes, not the numbers that it computes it with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from loadtests.disguised import Disguise, deeper, norms_times, padded, save_disguised, untied, wider
from tests.training.tiny import BELL
from vllm_mega.training.recipe.job import Fit, memory_job
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.run.trainer import Trainer

DISGUISES = {
    "norms / 8": (norms_times(1 / 8),),
    "norms x 8": (norms_times(8.0),),
    "norms per channel": (norms_times(None),),
    "wider": (wider,),
    "deeper": (deeper,),
    "head untied": (untied,),
    "all": (norms_times(None), wider, deeper, untied),
}


def trained(path: Path, steps: int) -> Fit:
    settings = Recipe(max_steps=steps, jobs=1)
    ((_, fit),) = Trainer(path, settings).fit([memory_job(BELL, settings)])
    return fit


@pytest.mark.parametrize("disguises", DISGUISES.values(), ids=DISGUISES.keys())
def test_a_disguise_is_trained_alike(tiny: Path, tmp_path: Path, disguises: tuple[Disguise, ...]) -> None:
    path = save_disguised(tiny, tmp_path / "model", *disguises)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        plain, other = (AutoModelForCausalLM.from_pretrained(p)(ids).logits for p in (tiny, path))
    torch.testing.assert_close(plain, other, rtol=1e-3, atol=1e-3)
    for steps in (2, 5):
        assert trained(path, steps).loss == pytest.approx(trained(tiny, steps).loss, rel=0.02)


def test_a_padded_vocabulary_is_recalled_too(tiny: Path, tmp_path: Path) -> None:
    fit = trained(save_disguised(tiny, tmp_path / "model", padded(512)), 300)
    assert fit.recalled
