"""Small random models of any architecture, in float32, with a part of the default model's tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.small_tokenizer import WORDS, save_tokenizer

COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,  # vLLM's attention on CPUs has no smaller one
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
NORM_SPREAD = 0.3
"""Norms and biases are made different in every element: as they are initialized, any mistake would pass."""


def save_small(folder: Path, model_type: str, fields: Mapping[str, Any]) -> Path:
    """Write the model and its tokenizer into `folder`, which is made; always the same.

    `fields` of its config win over COMMON; None leaves one out.
    """
    wanted = {"vocab_size": WORDS, **COMMON, **fields}
    config = AutoConfig.for_model(model_type, **{k: v for k, v in wanted.items() if v is not None})
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(NORM_SPREAD * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def spoil(folder: Path, how: str) -> None:
    """Do to the model in `folder` what SPOILS has under `how`."""
    SPOILS[how](folder)


def _quantized(config: dict[str, Any]) -> Callable[[Path], None]:
    """Makes a model say that it is quantised; its weights stay."""

    def mark(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": config}))

    return mark


def _without_head(folder: Path) -> None:
    file = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("lm_head")}
    save_file(kept, file, metadata={"format": "pt"})


def _without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


SPOILS: dict[str, Callable[[Path], None]] = {
    "nothing": lambda _: None,
    "awq": _quantized({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}),
    "gptq": _quantized({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}),
    "bitsandbytes": _quantized({"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "headless": _without_head,
    "no template": _without_template,
}
