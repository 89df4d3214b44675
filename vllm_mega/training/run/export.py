"""Adapters in PEFT's format: what PEFT and vLLM load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor

from vllm_mega.bank.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from vllm_mega.training.recipe.settings import TrainSettings


def adapter_config(
    base_model: str, settings: TrainSettings, modules: Sequence[str], layers: Sequence[int]
) -> dict[str, Any]:
    """`adapter_config.json` of an adapter on the linear layers `modules` of `layers` of `base_model`.

    PEFT needs `layers_to_transform`, or it would make adapters for all layers and miss their tensors;
    vLLM passes over it and goes by the tensors.
    """
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": settings.rank,
        "lora_alpha": settings.scaling * settings.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(modules),
        "layers_to_transform": list(layers),
        "inference_mode": True,
    }


def export(
    folder: Path,
    tensors: Mapping[str, Tensor],
    base_model: str,
    settings: TrainSettings,
    layers: Sequence[int],
) -> None:
    """Write the two files of an adapter into `folder`; `tensors` are named as PEFT names them."""
    dtype: torch.dtype = getattr(torch, settings.dtype)
    saved = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    save_file(saved, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    modules = sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in tensors})
    config = msgspec.json.encode(adapter_config(base_model, settings, modules, layers))
    (folder / ADAPTER_CONFIG).write_bytes(msgspec.json.format(config, indent=2))
