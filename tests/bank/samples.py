"""Invented memories and adapters for a base model of two tiny linear modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from vllm_mega.bank.layout import BaseModelInfo, EmbedderInfo

UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"
SHAPES = {UP: (6, 4), DOWN: (4, 6), "model.layers.0.self_attn.q_proj": (4, 4)}
BASE = BaseModelInfo("invented-base", "base-1")
EMBEDDER = EmbedderInfo("invented-embedder", "embedder-1", 8)
PREFIX = "base_model.model."


def config(**changes: Any) -> dict[str, Any]:
    """What PEFT would write, with changes."""
    return {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["up_proj", "down_proj"],
        "bias": "none",
        **changes,
    }


def tensors(seed: int = 0, rank: int = 2) -> dict[str, np.ndarray]:
    """A [R, I] and B [O, R] of both modules."""
    random = np.random.default_rng(seed)
    made = {}
    for module in (UP, DOWN):
        out, into = SHAPES[module]
        made[f"{PREFIX}{module}.lora_A.weight"] = random.normal(size=(rank, into)).astype(np.float32)
        made[f"{PREFIX}{module}.lora_B.weight"] = random.normal(size=(out, rank)).astype(np.float32)
    return made


def write_adapter(
    folder: Path, seed: int = 0, *, values: dict[str, np.ndarray] | None = None, **changes: Any
) -> Path:
    """A PEFT adapter in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config(**changes)))
    save_file(tensors(seed) if values is None else values, folder / "adapter_model.safetensors")
    return folder


def key(seed: int) -> np.ndarray:
    """A unit vector [D]."""
    vector = np.random.default_rng(1000 + seed).normal(size=EMBEDDER.dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def files_with(root: Path, needle: bytes) -> list[Path]:
    """The files below `root` whose name or content has `needle`."""
    return [
        path
        for path in root.rglob("*")
        if needle in path.name.encode() or (path.is_file() and needle in path.read_bytes())
    ]
