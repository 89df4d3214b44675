"""Checkpoints that cannot be trained on, and what is read from checkpoints beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cpus import ARM, WITH_BFLOAT16, WITHOUT_BFLOAT16
from tests.models.checkpoints import weights, write_checkpoint
from vllm_mega.errors import ModelError
from vllm_mega.models import linear_shapes, resolve_model, resolve_recorded
from vllm_mega.models.checkpoint import context_length, weight_dtype
from vllm_mega.models.dtype import cpu_dtype
from vllm_mega.models.refusals import check_trainable, load_error, refuse_missing


def headless() -> dict[str, np.ndarray]:
    return {name: value for name, value in weights().items() if name != "lm_head.weight"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, r"quantised \(awq\).*--model$"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantised \(gptq\)"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, r"quantised \(bitsandbytes\)"),
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantised \(fp8\)"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, r"\(compressed-tensors\)"),
        ({"text_config": {"quantization_config": {"load_in_4bit": True}}}, "by a method that it does not"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "an encoder with a decoder"),
        ({"model_type": "new", "is_encoder_decoder": True}, "new is an encoder with a decoder"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "BertModel is an encoder; expected a dec"),
        ({"model_type": "xlm-roberta"}, "is an encoder"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "is no causal language model"),
    ],
)
def test_refused_by_its_config(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    folder = write_checkpoint(tmp_path, **config)
    with pytest.raises(ModelError, match=words) as refusal:
        check_trainable(folder)
    assert "\n" not in str(refusal.value)
    assert "--model" in str(refusal.value)


def test_what_can_be_trained_is_not_refused(tmp_path: Path) -> None:
    for number, config in enumerate((
        {}, {"architectures": ["LlamaForCausalLM"]}, {"model_type": "modernbert-decoder",
        "architectures": ["ModernBertDecoderForCausalLM"]}, {"architectures": ["LlamaModel"]},
        {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]},
    )):  # fmt: skip
        check_trainable(write_checkpoint(tmp_path / str(number), **config))
    check_trainable(write_checkpoint(tmp_path / "tied", headless(), tie_word_embeddings=True))
    check_trainable(write_checkpoint(tmp_path / "gemma", headless(), model_type="gemma"))


def test_a_checkpoint_without_its_head(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, headless(), architectures=["LlamaModel"])
    with pytest.raises(ModelError, match=r"saved without its head .*--model$"):
        check_trainable(folder)


def test_weights_that_a_loader_has_missed(tmp_path: Path) -> None:
    refuse_missing(tmp_path, [])
    with pytest.raises(ModelError, match=r"lacks 4 weights of its model \(a, b, c, \.\.\.\).*--model$"):
        refuse_missing(tmp_path, {"d", "c", "b", "a"})


def test_code_of_a_checkpoint_is_run_only_if_asked_for(tmp_path: Path) -> None:
    told = ValueError("The repository contains custom code.\nPlease pass `trust_remote_code=True`.")
    error = str(load_error(tmp_path, told, "a model"))
    assert "give --trust-remote-code" in error
    assert "\n" not in error
    assert str(load_error(tmp_path, OSError("no\n  such"), "a model")) == (
        f"{tmp_path}: expected a model: no such"
    )


def test_linear_layers_that_are_transposed_or_packed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gpt2 keeps its linear weights transposed \(Conv1D\).*--model$"):
        linear_shapes(write_checkpoint(tmp_path / "gpt2", model_type="gpt2"))
    packed = {"model.layers.0.mlp.up_proj.weight": np.ones((12, 1), np.uint8)}
    with pytest.raises(ModelError, match="not a quantised one"):
        linear_shapes(write_checkpoint(tmp_path / "packed", packed))


@pytest.mark.parametrize(("name", "words"), [("model.Q4_0.gguf", "GGUF files"), ("x.bin", "pickled weights")])
def test_folders_with_other_formats(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).touch()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=rf"{words} .*only.*--model"):
        resolve_model(str(tmp_path))


def test_a_base_model_that_has_moved(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "new")
    assert resolve_recorded(str(folder), str(tmp_path / "old")) == folder
    assert resolve_recorded(None, str(folder)) == folder
    with pytest.raises(ModelError, match=r"no such folder.*If it has moved, give its new place with --model"):
        resolve_recorded(None, str(tmp_path / "old"))


@pytest.mark.parametrize(
    ("config", "limit", "length"),
    [
        ({}, None, 2048),
        ({"max_position_embeddings": 512}, None, 512),
        ({"max_position_embeddings": 512}, 1e30, 512),
        ({"max_position_embeddings": 512}, 256, 256),
        ({"n_positions": 128}, None, 128),
        ({"text_config": {"max_position_embeddings": 64}}, None, 64),
        ({"max_position_embeddings": 512, "rope_scaling": {"type": "linear", "factor": 2.0}}, None, 1024),
        ({"max_position_embeddings": 512, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, None, 512),
    ],
)
def test_how_much_a_model_reads(tmp_path: Path, config: dict[str, Any], limit: Any, length: int) -> None:
    folder = write_checkpoint(tmp_path, **config)
    if limit:
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    assert context_length(folder) == length


def test_the_type_on_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    half = write_checkpoint(tmp_path / "half", torch_dtype="float16")
    found = {name: value.astype(np.float16) for name, value in weights().items()}
    silent, full = write_checkpoint(tmp_path / "silent", found), write_checkpoint(tmp_path / "full")
    assert [weight_dtype(folder) for folder in (half, silent, full)] == ["float16", "float16", "float32"]
    for cpu, types in (
        (WITH_BFLOAT16, ["bfloat16", "bfloat16", None]),
        (ARM, ["bfloat16", "bfloat16", None]),
        (WITHOUT_BFLOAT16, ["float32"] * 3),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=cpu: found)
        assert [cpu_dtype(folder) for folder in (half, silent, full)] == types
