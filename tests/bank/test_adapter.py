"""Adapters that say or hold what they should not: each is refused, with what to change."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.bank.refusals import CONFIG, DOWN_A, DOWN_B, UP_A, UP_B, WEIGHTS, refused, with_tensors
from tests.bank.samples import DOWN, PREFIX, SHAPES, UP, tensors, write_adapter
from vllm_mega.bank.adapter import adapter_digest, check_adapter


def test_a_good_adapter(tmp_path: Path) -> None:
    facts = check_adapter(write_adapter(tmp_path), SHAPES, max_rank=2)
    assert facts.modules == (UP, DOWN)
    assert facts.rank == 2
    assert facts.bytes == sum((tmp_path / name).stat().st_size for name in (CONFIG, WEIGHTS))
    assert facts.digest == adapter_digest(tmp_path)
    assert check_adapter(tmp_path, SHAPES, expected_digest=facts.digest) == facts


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_float_type_of_the_engine(tmp_path: Path, dtype: torch.dtype) -> None:
    write_adapter(tmp_path)
    good = {name: torch.from_numpy(value).to(dtype) for name, value in tensors().items()}
    safetensors.torch.save_file(good, tmp_path / WEIGHTS)
    check_adapter(tmp_path, SHAPES)
    for bad in (float("nan"), float("inf"), float("-inf")):
        good[DOWN_B][1, 1] = bad
        safetensors.torch.save_file(good, tmp_path / WEIGHTS)
        refused(tmp_path, WEIGHTS, expected="finite", found=DOWN_B)
    zero = {name: -torch.zeros_like(value) if "_B" in name else value for name, value in good.items()}
    safetensors.torch.save_file(zero, tmp_path / WEIGHTS)
    refused(tmp_path, WEIGHTS, expected="changes the model", found="zero in every module")


def test_values_are_not_read_before_the_header_is_right(tmp_path: Path) -> None:
    bad = np.full((6, 3), np.nan, np.float32)
    refused(with_tensors(tmp_path, **{UP_B: bad}), WEIGHTS, expected="[6, 2]", found="[6, 3]")


def test_one_idle_module_is_no_reason_to_refuse(tmp_path: Path) -> None:
    check_adapter(with_tensors(tmp_path, **{UP_B: np.zeros((6, 2), np.float32)}), SHAPES)


def test_an_adapter_whose_halves_never_meet_does_nothing(tmp_path: Path) -> None:
    halves = {UP_B: np.zeros((6, 2), np.float32), DOWN_A: np.zeros((2, 6), np.float32)}
    refused(
        with_tensors(tmp_path, **halves), WEIGHTS, expected="changes the model", found="zero in every module"
    )


def test_no_tensors(tmp_path: Path) -> None:
    refused(write_adapter(tmp_path, values={}), WEIGHTS, expected="LoRA tensors", found="none")


def test_rank_above_the_limit(tmp_path: Path) -> None:
    refused(write_adapter(tmp_path), CONFIG, expected="at most 1", found="2", max_rank=1)


@pytest.mark.parametrize(
    ("changes", "expected", "found"),
    [
        ({"peft_type": "IA3"}, 'peft_type "LORA"', "IA3"),
        ({"peft_type": None}, 'peft_type "LORA"', "None"),
        ({"r": 0}, "rank r of at least 1", "0"),
        ({"r": "2"}, "a PEFT LoRA configuration", "$.r"),
        ({"lora_alpha": 0}, "lora_alpha that is not 0", "0"),
        ({"lora_alpha": None}, "a PEFT LoRA configuration", "$.lora_alpha"),
        ({"bias": "all"}, "bias unset", "all"),
        ({"use_dora": True}, "use_dora unset", "True"),
        ({"rank_pattern": {"up_proj": 1}}, "rank_pattern unset", "up_proj"),
        ({"alpha_pattern": {"up_proj": 1}}, "alpha_pattern unset", "up_proj"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save unset", "lm_head"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices unset", "1"),
        ({"target_parameters": ["experts.down"]}, "target_parameters unset", "experts"),
        ({"layer_replication": [[0, 1]]}, "layer_replication unset", "[[0, 1]]"),
        ({"alora_invocation_tokens": [7]}, "alora_invocation_tokens unset", "7"),
        ({"lora_bias": True}, "lora_bias unset", "True"),
        ({"use_qalora": True}, "use_qalora unset", "True"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora unset", "nblocks"),
        ({"init_lora_weights": "pissa"}, "leaves the base model alone", "pissa"),
        ({"init_lora_weights": "pissa_niter_4"}, "leaves the base model alone", "pissa"),
        ({"init_lora_weights": "lora_ga"}, "leaves the base model alone", "lora_ga"),
        ({"init_lora_weights": "loftq"}, "leaves the base model alone", "loftq"),
        ({"invented_next_year": 0.5}, "invented_next_year unset", "0.5"),
    ],
    ids=str,
)
def test_what_would_be_ignored_or_wrong(
    tmp_path: Path, changes: dict[str, Any], expected: str, found: str
) -> None:
    refused(write_adapter(tmp_path, **changes), CONFIG, expected=expected, found=found)


@pytest.mark.parametrize(
    ("name", "shape", "axis"),
    [
        (UP_A, (3, 4), "axis 0 (rank r) is 3, not 2"),
        (UP_A, (2, 5), "axis 1 (input features) is 5, not 4"),
        (UP_B, (5, 2), "axis 0 (output features) is 5, not 6"),
        (UP_B, (6, 1), "axis 1 (rank r) is 1, not 2"),
    ],
)
def test_wrong_shape_names_the_axis(tmp_path: Path, name: str, shape: tuple[int, int], axis: str) -> None:
    folder = with_tensors(tmp_path, **{name: np.ones(shape, np.float32)})
    refused(folder, WEIGHTS, expected=name, found=axis)


def test_wrong_number_of_axes(tmp_path: Path) -> None:
    folder = with_tensors(tmp_path, **{UP_A: np.ones((1, 2, 4), np.float32)})
    refused(folder, WEIGHTS, expected=f"{UP_A} with 2 axes", found="3: [1, 2, 4]")


def test_wrong_type(tmp_path: Path) -> None:
    refused(
        with_tensors(tmp_path, **{UP_A: np.ones((2, 4), np.int8)}),
        WEIGHTS,
        expected=f"{UP_A} as one of",
        found="I8",
    )


def test_half_a_pair(tmp_path: Path) -> None:
    refused(with_tensors(tmp_path / "a", **{UP_B: None}), WEIGHTS, expected=UP_B, found=f"only {UP_A}")
    refused(with_tensors(tmp_path / "b", **{UP_A: None}), WEIGHTS, expected=UP_A, found=f"only {UP_B}")


def test_no_such_module_names_the_nearest(tmp_path: Path) -> None:
    other = {name.replace(UP, UP.replace("layers.0", "layers.9")): value for name, value in tensors().items()}
    refused(write_adapter(tmp_path, values=other), WEIGHTS, expected=UP, found="layers.9.mlp.up_proj")


@pytest.mark.parametrize(
    "name",
    [
        f"{UP}.lora_A.weight",  # no prefix
        f"{PREFIX}{UP}.lora_A.default.weight",
        f"{PREFIX}{UP}.lora_magnitude_vector",
        f"{PREFIX}{UP}.lora_B.bias",
        f"{PREFIX}model.embed_tokens.base_layer.weight",  # vLLM passes over it
        f"{PREFIX}model.embed_tokens.lora_embedding_A",
        "score.weight",
    ],
)
def test_tensors_that_are_not_lora(tmp_path: Path, name: str) -> None:
    folder = with_tensors(tmp_path, **{name: np.ones((2, 4), np.float32)})
    refused(folder, WEIGHTS, expected="<module>.lora_A.weight", found=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["up_proj", "down_proj", "q_proj", "nowhere"]},
        {"target_modules": r"([a-z._0-9]+)*!"},
        {"target_modules": "("},
        {"target_modules": "(" * 50_000},
        {"target_modules": "all-linear"},
        {"target_modules": None},
        {"exclude_modules": r"([a-z._0-9]+)*!"},
        {"layers_to_transform": [0, 1], "layers_pattern": r"([a-z._0-9]+)*!"},
    ],
    ids=lambda changes: repr(changes)[:60],
)
def test_the_tensors_tell_what_it_changes(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The configuration is not asked: strangers write it, and PEFT wrote the tensors by it."""
    started = time.monotonic()
    assert check_adapter(write_adapter(tmp_path, **changes), SHAPES).modules == (UP, DOWN)
    assert time.monotonic() - started < 20


def test_an_adapter_that_peft_wrote(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1,
        )
    )  # fmt: skip
    shapes = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    lora = LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules=["q_proj", "down_proj"],
        layers_to_transform=[1],
        init_lora_weights=False,
    )
    get_peft_model(model, lora).save_pretrained(tmp_path)
    facts = check_adapter(tmp_path, shapes, max_rank=2)
    assert facts.modules == ("model.layers.1.mlp.down_proj", "model.layers.1.self_attn.q_proj")


@pytest.mark.parametrize("name", [UP_A, UP_B])
def test_a_value_that_the_model_cannot_hold_is_refused(tmp_path: Path, name: str):
    folder = with_tensors(tmp_path / "large", **{name: np.full(tensors(0)[name].shape, 7e4, np.float32)})
    check_adapter(folder, SHAPES)
    check_adapter(folder, SHAPES, largest_number=torch.finfo(torch.bfloat16).max)
    half = torch.finfo(torch.float16).max
    error = refused(folder, WEIGHTS, expected=name, found="70000", largest_number=half)
    assert "--dtype" in str(error.change)


def test_a_value_that_its_scale_makes_too_large_is_refused(tmp_path: Path):
    values = tensors(0)
    half, largest = (
        torch.finfo(torch.float16).max,
        max(float(np.abs(values[n]).max()) for n in (UP_B, DOWN_B)),
    )
    rank = values[UP_A].shape[0]
    folder = write_adapter(tmp_path / "scaled", lora_alpha=2 * rank * half / largest)
    check_adapter(folder, SHAPES)
    refused(folder, WEIGHTS, expected="lora_B", found="", largest_number=half)
