"""Slices of large models: their arithmetic, and one of a small model that is really trained."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from loadtests import large
from loadtests.invented import invent
from loadtests.large import LLAMA, QWEN, Dimensions, Slice, Trained, row
from vllm_mega.models import linear_shapes, resolve_model
from vllm_mega.models.chat_format import load_chat_format
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.targets import resolved
from vllm_mega.training.run.estimate import STEPS, Tokens
from vllm_mega.training.run.outlook import tokens_of


@pytest.fixture(scope="module")
def tokens() -> tuple[Tokens, Tokens]:
    """Of the memories of the slice, and of those that all layers are estimated for."""
    chat = load_chat_format(resolve_model())
    short, long = (tokens_of(made, chat, Recipe()) for made in (large.short_memories(4), invent(4, 0)))
    return short, long


@pytest.mark.parametrize(("model", "billions"), [(LLAMA, 8.03), (QWEN, 7.61)])
def test_the_shapes_are_those_of_the_models(model: Dimensions, billions: float) -> None:
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**model.config, tie_word_embeddings=False)
        )
    linear = {
        name: tuple(module.weight.shape)
        for name, module in made.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    assert linear == model.full
    shape = model.shape(model.full, resolved(Recipe(), model.config), model.config["vocab_size"])
    assert shape.total / 1e9 == pytest.approx(billions, abs=0.01)


def test_all_layers_take_what_their_products_are_more(tokens: tuple[Tokens, Tokens]) -> None:
    part = Slice(flops=100e9, load=10, loaded=2e9, runs=[])
    slow = row(LLAMA, part, Trained(4, 8.0, 20.0, 4e9), *tokens, 49152)
    fast = row(LLAMA, part, Trained(4, 4.0, 20.0, 4e9), *tokens, 49152)
    alone = row(LLAMA, part, Trained(1, 2.0, 5.0, 4e9), *tokens, 49152)
    assert slow.efficiency == pytest.approx(fast.efficiency / 2)
    assert slow.full_seconds > fast.full_seconds > STEPS * 11 * 4.0 / 4
    assert fast.flops == pytest.approx(alone.flops, rel=0.05)
    assert alone.full_estimate < slow.full_estimate
    assert slow.full_peak / slow.peak == pytest.approx(slow.full_estimate / slow.estimated_peak)


def test_a_slice_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {**QWEN.config, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    model = msgspec.structs.replace(QWEN, config=small)
    large.write_slice(model, resolve_model(), tmp_path / "slice")
    assert len(linear_shapes(tmp_path / "slice")) == 7 * large.LAYERS
    monkeypatch.setattr(large, "JOBS", (1, 2))
    part = large.measure_slice(tmp_path / "slice", large.short_memories(2))
    assert [ran.jobs for ran in part.runs] == [1, 2]
    assert all(ran.step > 0 and ran.peak >= part.loaded for ran in part.runs)
