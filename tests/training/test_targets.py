from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from vllm_mega.errors import ModelError
from vllm_mega.training.compute.lora import LoraStack
from vllm_mega.training.recipe.settings import TrainSettings
from vllm_mega.training.recipe.targets import layer_index, resolved, target_names


@pytest.fixture
def model(tiny: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny).eval()


def test_upper_layers_and_named_modules_only(model: Any) -> None:
    stack = LoraStack(model, TrainSettings(modules=("up_proj", "q_proj"), layers=2), jobs=1)
    assert stack.layers == [1, 2]
    assert sorted(stack.modules) == [
        f"model.layers.{i}.{name}" for i in (1, 2) for name in ("mlp.up_proj", "self_attn.q_proj")
    ]
    assert {p for p in model.parameters() if p.requires_grad} == set(stack.parameters())


def test_a_model_with_fewer_layers_gets_all(model: Any) -> None:
    assert LoraStack(model, TrainSettings(layers=20), jobs=1).layers == [0, 1, 2]


def test_missing_modules_are_named(model: Any) -> None:
    with pytest.raises(
        ModelError, match=r"no linear layers named fc1, fc2 .* choose modules from: down_proj"
    ):
        LoraStack(model, TrainSettings(modules=("fc2", "up_proj", "fc1")), jobs=1)


def test_defaults_follow_the_architecture(model: Any) -> None:
    settings = resolved(TrainSettings(rank=2), model.config.to_dict())
    assert settings == TrainSettings(rank=2, modules=("gate_proj", "up_proj", "down_proj"), layers=3)
    assert LoraStack(model, TrainSettings(rank=2), jobs=1).settings == settings


def test_what_is_given_stays(model: Any) -> None:
    given = TrainSettings(modules=("up_proj", "attention"), layers=2)
    names = ("up_proj", "q_proj", "k_proj", "v_proj", "o_proj")
    assert resolved(given, model.config.to_dict()) == TrainSettings(modules=names, layers=2)


def test_what_cannot_be_served_is_refused_first() -> None:
    with pytest.raises(ModelError, match="type gpt2 without LoRA"):
        resolved(TrainSettings(), {"model_type": "gpt2"})


def test_experts_and_routers_are_never_named() -> None:
    config = MixtralConfig(
        vocab_size=9, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    model.model.layers[1].mlp.shared_expert = torch.nn.Sequential()
    model.model.layers[1].mlp.shared_expert.q_proj = torch.nn.Linear(1, 1)
    settings = resolved(TrainSettings(), config.to_dict())
    names = target_names(model, settings)
    attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    assert names == [f"model.layers.{n}.self_attn.{name}" for n in range(2) for name in attention]


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
