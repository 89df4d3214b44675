"""What happens to an adapter before `bank add`: training, saving, what others do to its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def noise(model: Any) -> None:
    """Training: A and B change."""
    _noise(model, lambda name: ".lora_" in name)


def noise_everywhere(model: Any) -> None:
    """Training: all that may change does."""
    _noise(model, lambda name: True)


def _noise(model: Any, chosen: Callable[[str], bool]) -> None:
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.requires_grad and chosen(name):
                weights.add_(torch.randn(weights.shape, generator=random), alpha=0.2)


def resize(model: Any) -> None:
    """Training with more tokens."""
    noise(model)
    model.resize_token_embeddings(40)


def save(model: Any, folder: Path) -> None:
    """As one does it."""
    model.save_pretrained(folder)


def save_embeddings(model: Any, folder: Path) -> None:
    """With the embedding and the head."""
    model.save_pretrained(folder, save_embedding_layers=True)


def save_without_embeddings(model: Any, folder: Path) -> None:
    """Without, though they are targeted."""
    model.save_pretrained(folder, save_embedding_layers=False)


def save_named(*names: str) -> Callable[[Any, Path], None]:
    """Under other names than "default"."""

    def save(model: Any, folder: Path) -> None:
        for name in names:
            model.add_adapter(name, model.peft_config["default"])
            trained = {n: p for n, p in model.state_dict().items() if ".default." in n}
            model.load_state_dict(
                {n.replace(".default.", f".{name}."): p for n, p in trained.items()}, strict=False
            )
        model.save_pretrained(folder, selected_adapters=list(names))

    return save


def save_converted(model: Any, folder: Path) -> None:
    """As PEFT makes a plain LoRA of PiSSA's and OLoRA's: the untrained adapter lies beside."""
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(folder.parent / "initial"))


def nothing(folder: Path) -> None:
    """Left as it is."""


def config(folder: Path, **fields: Any) -> None:
    """Other values in the configuration."""
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def rename(folder: Path, change: Callable[[str], str]) -> None:
    """Other names of tensors."""
    save_file({change(name): value for name, value in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)


def retype(folder: Path, dtype: str) -> None:
    """Tensors of another type."""
    tensors = load_file(folder / WEIGHTS)
    save_file({name: value.to(getattr(torch, dtype)) for name, value in tensors.items()}, folder / WEIGHTS)


def round_beside(folder: Path) -> None:
    """What is saved beside A and B, as a model has it that was loaded as bfloat16."""
    tensors = load_file(folder / WEIGHTS)
    save_file({n: t if ".lora_" in n else t.bfloat16().float() for n, t in tensors.items()}, folder / WEIGHTS)


def two_in_one(folder: Path) -> None:
    """The whole state of a model with two adapters."""
    tensors = load_file(folder / WEIGHTS)
    both = {
        name.replace(".weight", f".{adapter}.weight"): value.clone()
        for name, value in tensors.items()
        for adapter in ("lamp", "tide")
    }
    save_file(both, folder / WEIGHTS)


def pickled(folder: Path) -> None:
    """As old versions of PEFT saved them."""
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
