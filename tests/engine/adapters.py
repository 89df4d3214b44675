"""Small random adapters in PEFT format: strong enough to change what the default model says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.mixture import Mixture

MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
MIXED = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj")


def write_adapter(
    folder: Path,
    shapes: dict[str, tuple[int, int]],
    *,
    seed: int,
    rank: int = 4,
    leaves: tuple[str, ...] = MLP,
    layers: range = range(10, 30),
    scale: float = 0.02,
) -> Path:
    """Write a random adapter for the modules of `shapes` (module -> (O, I)) that match."""
    folder.mkdir(parents=True)
    g = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for module, (out, into) in shapes.items():
        layer = int(module.split(".")[2]) if module.startswith("model.layers.") else -1
        if layer in layers and module.endswith(leaves):
            name = f"base_model.model.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, into, generator=g) / into**0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank, generator=g) * scale
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "SmolLM2-135M-Instruct",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [leaf.split(".")[1] for leaf in leaves],
        "layers_to_transform": list(layers),
        "layers_pattern": "layers",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


class Adapters:
    """The adapters of a test session, by number."""

    def __init__(self, root: Path, shapes: dict[str, tuple[int, int]], count: int = 7, **more: Any) -> None:
        """`more`: for `write_adapter`."""
        self.folders = [
            write_adapter(
                root / str(n),
                shapes,
                seed=n,
                rank=(1, 2, 4, 8)[n % 4],
                leaves=MIXED if n % 3 == 2 else MLP,
                **more,
            )
            for n in range(count)
        ]
        self.digests = [adapter_digest(folder) for folder in self.folders]

    def mixture(self, *parts: tuple[int, float]) -> Mixture:
        return Mixture((self.digests[n], str(self.folders[n]), w) for n, w in parts)
