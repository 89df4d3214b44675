"""What others have saved of a base model is known as its own, however it was rounded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vllm_mega.models.base_weights import BaseWeights
from vllm_mega.models.checkpoint import tensors

NAME = "model.embed_tokens.weight"
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def checkpoint(folder: Path, values: torch.Tensor, *, tie: bool = True) -> BaseWeights:
    folder.mkdir()
    config = {"model_type": "llama", "tie_word_embeddings": tie}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {NAME: values, "model.layers.0.mlp.up_proj.weight": torch.ones(3, 2)}, folder / "model.safetensors"
    )
    return BaseWeights(folder)


def equals(base: BaseWeights, folder: Path, values: torch.Tensor, name: str = NAME) -> bool:
    folder.mkdir(exist_ok=True)
    save_file({"before": torch.ones(2, dtype=torch.bfloat16), "x": values}, folder / "model.safetensors")
    other = tensors(folder)["x"]
    return base.equals(name, other.dtype, other.shape, other.file, other.start)


@pytest.mark.parametrize("own", TYPES)
@pytest.mark.parametrize("saved", TYPES)
@pytest.mark.parametrize("loaded", TYPES)
def test_its_own_values_in_every_type(tmp_path: Path, own: str, saved: str, loaded: str) -> None:
    values = (torch.randn(50, 7, generator=torch.Generator().manual_seed(1)) * 8).to(TYPES[own])
    base = checkpoint(tmp_path / "base", values)
    theirs = values.to(TYPES[loaded]).to(TYPES[saved])
    rounded_twice = len({own, saved, loaded} - {"F32"}) == 2 and loaded != saved != own
    assert equals(base, tmp_path / "other", theirs) or rounded_twice
    theirs[30, 3] += 1
    assert not equals(base, tmp_path / "other", theirs)


def test_other_shapes_and_types(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", torch.ones(4, 3))
    assert not equals(base, tmp_path / "other", torch.ones(5, 3))
    assert not equals(base, tmp_path / "other", torch.ones(4, 3, dtype=torch.float64))
    assert not equals(base, tmp_path / "other", torch.full((4, 3), 1e30))
    assert base.shapes == {"model.layers.0.mlp.up_proj": (3, 2)}


def test_a_head_that_is_the_embedding(tmp_path: Path) -> None:
    values = torch.randn(4, 3)
    base = checkpoint(tmp_path / "base", values)
    assert "lm_head.weight" in base.names
    assert equals(base, tmp_path / "other", values, "lm_head.weight")
    assert "lm_head.weight" not in checkpoint(tmp_path / "untied", values, tie=False).names
