"""Small checkpoints, written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"
MANY = 5000  # large enough that a fingerprint samples it


def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    return {
        "model.embed_tokens.weight": random.normal(size=(MANY, 4)).astype(np.float32),
        f"{UP}.weight": random.normal(size=(6, 4)).astype(np.float32),
        f"{DOWN}.weight": random.normal(size=(4, 6)).astype(np.float32),
        "model.norm.weight": np.ones(4, np.float32),
        "lm_head.weight": np.ones((MANY, 4), np.float32),
    }


def write_checkpoint(folder: Path, values: dict[str, np.ndarray] | None = None, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 4, **config}))
    save_file(weights() if values is None else values, folder / "model.safetensors")
    return folder


def write_sharded(folder: Path) -> Path:
    write_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    mapping = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(weights())}
    for file in set(mapping.values()):
        save_file({name: value for name, value in weights().items() if mapping[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    return folder
