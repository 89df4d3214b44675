from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.training.tiny import SETTINGS
from vllm_mega.errors import ModelError
from vllm_mega.training.lora import LoraLinear, LoraStack, layer_index
from vllm_mega.training.settings import TrainSettings


@pytest.fixture
def model(tiny: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny).eval()


def test_the_formula() -> None:
    torch.manual_seed(0)
    base = torch.nn.Linear(5, 4)
    lora = LoraLinear(base, rank=2, scaling=0.5)
    with torch.no_grad():
        lora.A.normal_()
        lora.B.normal_()
    x = torch.randn(3, 5)
    torch.testing.assert_close(lora(x), x @ (base.weight + 0.5 * lora.B @ lora.A).T + base.bias)


def test_upper_layers_and_named_modules_only(model: Any) -> None:
    stack = LoraStack(model, TrainSettings(modules=("up_proj", "q_proj"), layers=2))
    assert stack.layers == [1, 2]
    assert sorted(stack.modules) == [
        f"model.layers.{i}.{name}" for i in (1, 2) for name in ("mlp.up_proj", "self_attn.q_proj")
    ]
    assert {p for p in model.parameters() if p.requires_grad} == set(stack.parameters())


def test_a_model_with_fewer_layers_gets_all(model: Any) -> None:
    assert LoraStack(model, TrainSettings(layers=20)).layers == [0, 1, 2]


def test_missing_modules_are_named(model: Any) -> None:
    with pytest.raises(
        ModelError, match=r"no linear layers named fc1, fc2 .* choose modules from: down_proj"
    ):
        LoraStack(model, TrainSettings(modules=("fc2", "up_proj", "fc1")))


def test_reset_empties_and_depends_on_the_seed_only(model: Any) -> None:
    ids = torch.arange(6)[None]
    before = model(ids).logits
    stack = LoraStack(model, SETTINGS)
    stack.reset(1)
    first = stack.tensors()
    torch.testing.assert_close(model(ids).logits, before, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(1.0)
    assert not torch.equal(model(ids).logits, before)
    stack.reset(1)
    assert all(torch.equal(tensor, first[name]) for name, tensor in stack.tensors().items())
    stack.reset(2)
    assert not any(torch.equal(t, first[name]) for name, t in stack.tensors().items() if "lora_A" in name)


def test_scaling_comes_from_alpha(model: Any) -> None:
    stack = LoraStack(model, msgspec.structs.replace(SETTINGS, alpha=4.0))
    assert {lora.scaling for lora in stack.modules.values()} == {0.5}


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("model.layers.12.mlp.up_proj", 12),
        ("transformer.h.3.attn.c_attn", 3),
        ("lm_head", -1),
        ("layers.0.x", 0),
    ],
)
def test_layer_index(name: str, index: int) -> None:
    assert layer_index(name) == index
