from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.training.tiny import ALL, BELL, SETTINGS
from vllm_mega.bank.adapter import check_adapter
from vllm_mega.models import linear_shapes
from vllm_mega.training.compute.packing import pack, pool
from vllm_mega.training.recipe.encoding import Encoded
from vllm_mega.training.recipe.job import memory_job
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.run.export import export
from vllm_mega.training.run.trainer import Trainer

IDS = torch.arange(3, 13)[None]


def exported(tiny: Path, folder: Path, settings: Recipe) -> Trainer:
    """Train a little and export; the trainer keeps the adapters that it exported."""
    trainer = Trainer(tiny, msgspec.structs.replace(settings, jobs=1))
    ((_, fit),) = trainer.fit([memory_job(BELL, settings)])
    export(folder, fit.tensors, str(tiny), settings, trainer.layers)
    return trainer


@torch.no_grad()
def packed_logits(trainer: Trainer) -> torch.Tensor:
    """Of `IDS`, as training computes them: [T, vocabulary]."""
    ids = IDS[0].tolist()
    one = pool([Encoded(ids[:1], [*ids[1:], 0], [])])
    row = pack([one], [0], [0], [[0]])
    hidden = trainer.split.below(IDS[0], row, {})
    trainer.stack.assign(row.jobs, row.labelled)
    return trainer.split.head.logits(trainer.split.above(hidden, row, {}))


@pytest.mark.parametrize(
    "modules", [("up_proj",), ("gate_proj", "up_proj", "down_proj"), ("q_proj", "o_proj")]
)
def test_peft_computes_what_training_saw(tiny: Path, tmp_path: Path, modules: tuple[str, ...]) -> None:
    settings = Recipe(rank=3, alpha=6.0, modules=modules, layers=2, max_steps=3, dtype="float32")
    trainer = exported(tiny, tmp_path, settings)
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    with torch.no_grad():
        base = model(IDS).logits
        # A warning about missing or unexpected tensors would be an error here.
        loaded = PeftModel.from_pretrained(model, str(tmp_path)).eval()(IDS).logits
        torch.testing.assert_close(loaded[0], packed_logits(trainer), rtol=1e-4, atol=1e-4)
    assert (loaded - base).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_bank_accepts_it(tiny: Path, tmp_path: Path, dtype: str) -> None:
    settings = msgspec.structs.replace(SETTINGS, max_steps=2, dtype=dtype)
    exported(tiny, tmp_path, settings)
    facts = check_adapter(tmp_path, linear_shapes(tiny))
    assert facts.rank == settings.rank
    assert len(facts.modules) == 2 * len(ALL)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {str(t.dtype) for t in tensors.values()} == {f"torch.{dtype}"}


def test_the_configuration(tiny: Path, tmp_path: Path) -> None:
    exported(tiny, tmp_path, Recipe(rank=4, alpha=2.0, layers=2, max_steps=2))
    config = msgspec.json.decode((tmp_path / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == str(tiny)
    assert (config["r"], config["lora_alpha"]) == (4, 2.0)
    assert config["target_modules"] == ["down_proj", "gate_proj", "up_proj"]
    assert config["layers_to_transform"] == [1, 2]
