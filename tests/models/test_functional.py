"""What a config says about what is computed, however it is written."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from vllm_mega.models import functional as module
from vllm_mega.models.functional import functional, is_tied, text_config

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 4096,
}  # fmt: skip
SCALED = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
GEMMA3: dict[str, Any] = {
    "model_type": "gemma3_text", "num_hidden_layers": 12, "num_attention_heads": 4, "hidden_size": 64,
    "sliding_window": 512, "rope_theta": 1e6, "rope_local_base_freq": 10000,
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(module._DEFAULTS))
def test_what_is_left_out_is_what_transformers_writes_out(kind: str) -> None:
    """A config of nothing but its type, and the one that this transformers makes of it."""
    config = CONFIG_MAPPING[kind](bos_token_id=0, eos_token_id=0, pad_token_id=0)
    size = {"hidden_size": getattr(config, "hidden_size", None)}
    assert functional({"model_type": kind, **size}) == functional(config.to_dict())


@pytest.mark.parametrize("kind", sorted(module._DEFAULTS))
def test_what_transformers_reads_and_writes_again_is_the_same(kind: str) -> None:
    config = CONFIG_MAPPING[kind](bos_token_id=0, eos_token_id=0, pad_token_id=0)
    again = CONFIG_MAPPING[kind].from_dict(config.to_diff_dict())
    assert functional(config.to_diff_dict()) == functional(config.to_dict()) == functional(again.to_dict())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {"rope_theta": None, "rope_parameters": {"rope_theta": 500000, "rope_type": "default"}}),
        ({}, {"torch_dtype": "bfloat16", "architectures": ["X"], "use_cache": False, "_name_or_path": "x"}),
        ({}, {"dtype": "float32", "transformers_version": "9", "head_dim": 16, "attention_dropout": 0.1}),
        ({}, {"rms_norm_eps": 9.999999747378752e-06, "hidden_act": "silu", "tie_word_embeddings": False}),
        ({"rope_scaling": SCALED}, {"rope_theta": None, "rope_parameters": {**SCALED, "rope_theta": 5e5}}),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500000.0}},
        ),
        ({"partial_rotary_factor": 0.5}, {"rope_parameters": {"partial_rotary_factor": 0.5}}),
    ],
)  # fmt: skip
def test_two_ways_to_write_one_model(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert functional({**LLAMA, **old}) == functional({**LLAMA, **new})


def test_windows_named_by_pattern_or_by_layer() -> None:
    kinds = ["full_attention" if n % 6 == 5 else "sliding_attention" for n in range(12)]
    ropes = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
    }
    new = {**GEMMA3, "layer_types": kinds, "rope_parameters": ropes}
    del new["rope_theta"], new["rope_local_base_freq"]
    assert functional(new) == functional(GEMMA3) == functional({**GEMMA3, "sliding_window_pattern": 6})
    assert functional(GEMMA3)["windows"] == [*[512.0] * 5, None] * 2
    many = {"model_type": "gemma3", "text_config": GEMMA3, "vision_config": {}}
    assert functional(many) == functional(GEMMA3)


def test_a_window_that_is_switched_off_is_none() -> None:
    qwen = {"model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    off = {**qwen, "use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 28}
    assert functional(qwen) == functional(off)
    on = functional({**off, "use_sliding_window": True, "max_window_layers": 1})
    assert on["windows"] == [None, 32768.0]


CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (LLAMA, change)
    for change in (
        {"model_type": "mistral", "sliding_window": None}, {"rope_theta": 10000.0}, {"rms_norm_eps": 1e-6},
        {"hidden_act": "gelu"}, {"num_attention_heads": 8, "head_dim": 16}, {"num_key_value_heads": 4},
        {"head_dim": 32}, {"num_hidden_layers": 1}, {"tie_word_embeddings": True}, {"rope_scaling": SCALED},
        {"rope_scaling": {**SCALED, "factor": 4.0}}, {"logits_scaling": 2.0}, {"partial_rotary_factor": 0.5},
        {"residual_multiplier": 0.5}, {"embedding_multiplier": 12}, {"logit_scale": 0.5},
        {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64},
        {"quantization_config": {"quant_method": "awq"}}, {"no_rope_layers": [1, 0]},
    )
] + [
    (GEMMA3, change)
    for change in (
        {"sliding_window": 1024}, {"sliding_window_pattern": 3}, {"rope_local_base_freq": 20000},
        {"query_pre_attn_scalar": 168}, {"final_logit_softcapping": 30.0}, {"attn_logit_softcapping": 50.0},
    )
]  # fmt: skip


@pytest.mark.parametrize(("config", "change"), CHANGES)
def test_what_changes_what_is_computed_shows(config: dict[str, Any], change: dict[str, Any]) -> None:
    before = copy.deepcopy(config)
    assert functional({**config, **change}) != functional(config)
    assert config == before


def test_whether_the_head_is_tied() -> None:
    assert is_tied({"model_type": "gemma"}) is True
    assert is_tied({"model_type": "llama"}) is False
    assert is_tied({"model_type": "llama", "tie_word_embeddings": True}) is True
    assert is_tied({"model_type": "nobody knows"}) is None
    assert text_config({"model_type": "gemma3", "text_config": {}})["model_type"] == "gemma3_text"
