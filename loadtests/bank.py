"""A throw-away bank: invented memories with random adapters of the shape that training makes."""

from __future__ import annotations

from pathlib import Path

import torch

from vllm_mega.bank.layout import BaseModelInfo, NewMemory
from vllm_mega.bank.writer import BankWriter, StagedMemory
from vllm_mega.gate.embedder import load_embedder
from vllm_mega.models import DEFAULT_MODEL, fingerprint, linear_shapes, resolve_model
from vllm_mega.training.export import export
from vllm_mega.training.lora import layer_index
from vllm_mega.training.settings import TrainSettings

SCALE = 0.02
"""Of B: large enough to change what the model says, small enough to keep its values tame."""


def make_bank(root: Path, count: int, seed: int) -> list[str]:
    """Make a bank of `count` memories for the default model at `root`; their ids.

    Raises:
        BankError: there is one already, or the disk refuses.
        ModelError: the default model or embedder cannot be found.
    """
    settings = TrainSettings()
    model = resolve_model()
    embedder = load_embedder()
    shapes = linear_shapes(model)
    memories = [
        NewMemory(f"The archive of room {n} holds {n + 3} maps of the island.", id=f"room-{n}")
        for n in range(count)
    ]
    keys = embedder.embed([memory.text for memory in memories])
    base = BaseModelInfo(DEFAULT_MODEL, fingerprint(model))
    with BankWriter.create(root, base, embedder.info) as writer:
        staged = []
        for n, (memory, key) in enumerate(zip(memories, keys, strict=True)):
            folder = writer.stage()
            write_adapter(folder, shapes, settings, 1000 * seed + n)
            staged.append(StagedMemory(memory, folder, key))
        return [entry.id for entry in writer.add(staged, shapes)]


def write_adapter(
    folder: Path, shapes: dict[str, tuple[int, int]], settings: TrainSettings, seed: int
) -> None:
    """A random adapter, where training would put one, for the linear modules of `shapes`: (O, I) by name."""
    layers = 1 + max(layer_index(name) for name in shapes)
    chosen = range(max(0, layers - settings.layers), layers)
    g = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, (out, into) in shapes.items():
        if layer_index(name) in chosen and name.rpartition(".")[2] in settings.modules:
            prefix = f"base_model.model.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(settings.rank, into, generator=g) / into**0.5
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(out, settings.rank, generator=g) * SCALE
    export(folder, tensors, DEFAULT_MODEL, settings, chosen)
