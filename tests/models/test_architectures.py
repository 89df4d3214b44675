from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from vllm_mega.errors import ModelError
from vllm_mega.models.architectures import (
    NO_LORA,
    architecture,
    experts,
    head_rule,
    module_names,
    require_trainable,
    upper_layers,
    window,
)
from vllm_mega.models.functional import text_config

MIXTRAL = {"model_type": "mixtral", "num_local_experts": 8}


@pytest.mark.parametrize(
    ("kind", "layers", "mlp", "attention"),
    [
        ("llama", "model.layers", "gate_proj up_proj down_proj", "q_proj k_proj v_proj o_proj"),
        ("never heard of", "model.layers", "gate_proj up_proj down_proj", "q_proj k_proj v_proj o_proj"),
        ("phi3", "model.layers", "gate_up_proj down_proj", "qkv_proj o_proj"),
        ("phi", "model.layers", "fc1 fc2", "q_proj k_proj v_proj dense"),
        ("starcoder2", "model.layers", "c_fc c_proj", "q_proj k_proj v_proj o_proj"),
        ("gpt_neox", "gpt_neox.layers", "dense_h_to_4h dense_4h_to_h", "query_key_value dense"),
        ("nemotron", "model.layers", "up_proj down_proj", "q_proj k_proj v_proj o_proj"),
        ("opt", "model.decoder.layers", "fc1 fc2", "q_proj k_proj v_proj out_proj"),
    ],
)
def test_names(kind: str, layers: str, mlp: str, attention: str) -> None:
    config = {"model_type": kind}
    assert architecture(config).layers == layers
    assert module_names(config, None) == module_names(config, ["mlp"]) == tuple(mlp.split())
    assert module_names(config, ["attention"]) == tuple(attention.split())
    assert module_names(config, ["all"]) == (*mlp.split(), *attention.split())


def test_names_and_kinds_go_together_and_nothing_comes_twice() -> None:
    names = module_names({"model_type": "phi3"}, ["o_proj", "attention", "mine"])
    assert names == ("o_proj", "qkv_proj", "mine")


def test_a_mixture_of_experts_gets_adapters_on_attention() -> None:
    attention = module_names({"model_type": "llama"}, ["attention"])
    assert experts(MIXTRAL) > 1
    assert module_names(MIXTRAL, None) == module_names(MIXTRAL, ["all"]) == attention
    with pytest.raises(ModelError, match="mixture of experts, which get no adapters; choose --modules att"):
        module_names(MIXTRAL, ["mlp"])


def test_how_many_experts_a_model_has() -> None:
    configs: list[dict[str, Any]] = [
        {}, {"num_local_experts": 8}, {"n_routed_experts": 64}, {"text_config": {"num_experts": 4}},
        {"model_type": "granitemoehybrid", "num_local_experts": 0}, {"moe_num_experts": [4, 16]},
    ]  # fmt: skip
    assert [experts(config) for config in configs] == [0, 8, 64, 4, 0, 16]


@pytest.mark.parametrize(("depth", "layers"), [(30, 10), (18, 10), (3, 3), (1, 1), (32, 11), (80, 27)])
def test_the_upper_third_gets_adapters(depth: int, layers: int) -> None:
    assert upper_layers({"num_hidden_layers": depth}) == layers
    assert upper_layers({"n_layer": depth}) == layers
    assert upper_layers({"text_config": {"num_hidden_layers": depth}}) == layers


def test_a_depth_that_nobody_tells() -> None:
    with pytest.raises(ModelError, match=r"none of num_hidden_layers.* \(--layers\)"):
        upper_layers({"model_type": "llama"})


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ({}, (1.0, None)),
        ({"logit_scale": 0.0625}, (0.0625, None)),
        ({"logits_scaling": 8.0}, (0.125, None)),
        ({"final_logit_softcapping": 30.0}, (1.0, 30.0)),
        ({"text_config": {"final_logit_softcapping": 30.0}}, (1.0, 30.0)),
        ({"logit_scale": None, "final_logit_softcapping": None}, (1.0, None)),
    ],
    ids=str,
)
def test_logits(config: dict[str, Any], rule: tuple[float, float | None]) -> None:
    assert head_rule(config) == rule


def test_windows() -> None:
    assert window({"sliding_window": 512}) == window({"text_config": {"sliding_window": 512}}) == 512
    assert window({"sliding_window": None}) is None
    assert window({"sliding_window": 512, "use_sliding_window": False}) is None


def test_a_nested_config_keeps_the_type_of_the_whole() -> None:
    nested = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 2}}
    assert text_config(nested) == {"model_type": "gemma3_text", "num_hidden_layers": 2}
    assert architecture(nested).layers == "model.language_model.layers"


@pytest.mark.parametrize("kind", sorted(NO_LORA))
def test_what_vllm_puts_no_lora_on_is_refused(kind: str) -> None:
    words = rf"vLLM 0.32 runs models of type {kind} without LoRA.* Choose another model \(--model\)"
    with pytest.raises(ModelError, match=words):
        require_trainable({"model_type": kind})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"model_type": "gpt_oss"},
            "models of type gpt_oss have attention sinks, which packed rows cannot run",
        ),
        ({"model_type": "deepseek_v3"}, "have latent attention"),
        ({"model_type": "falcon_h1"}, "have layers that carry a state from token to token"),
        (
            {"model_type": "granitemoehybrid", "layer_types": ["attention", "mamba"]},
            "models of type granitemoehybrid have layers of type mamba, .*vllm-mega bank add",
        ),
        (
            {"model_type": "llama4", "text_config": {"layer_types": ["chunked_attention"]}},
            "have layers of type chunked_attention",
        ),
    ],
    ids=str,
)
def test_what_packed_rows_cannot_run_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        require_trainable(config)


def test_others_are_not() -> None:
    require_trainable({"model_type": "llama"})
    require_trainable({"model_type": "gemma3_text", "layer_types": ["sliding_attention", "full_attention"]})
    require_trainable({"model_type": "granitemoehybrid", "layer_types": ["attention", "attention"]})


def test_torch_stays_out() -> None:
    code = "import sys, vllm_mega.models.architectures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
