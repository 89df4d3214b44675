"""A throw-away bank: invented memories with random adapters of the shape that training makes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from vllm_mega.bank.adapter import check_adapter
from vllm_mega.bank.catalog import changes
from vllm_mega.bank.catalog.catalog import Catalog, create_catalog
from vllm_mega.bank.catalog.drafts import key_bytes
from vllm_mega.bank.catalog.records import BankSettings, Draft
from vllm_mega.bank.catalog.store import place
from vllm_mega.bank.identity import text_digest
from vllm_mega.bank.layout import BaseModelInfo, NewMemory
from vllm_mega.bank.lora_tensors import Shapes
from vllm_mega.gate.embedder import load_embedder
from vllm_mega.models import DEFAULT_MODEL, fingerprint, linear_shapes, model_config, resolve_model
from vllm_mega.training.compute.lora import peft_name
from vllm_mega.training.recipe.settings import TrainSettings
from vllm_mega.training.recipe.targets import layer_index, resolved, selected
from vllm_mega.training.run.export import export

SCALE = 0.02
"""Of B: large enough to change what the model says, small enough to keep its values tame."""


def default_settings(settings: TrainSettings | None = None) -> TrainSettings:
    """`settings` (or the defaults) with the names and layers of the default model."""
    return resolved(settings or TrainSettings(), model_config(resolve_model()))


def make_bank(root: Path, count: int, seed: int) -> list[str]:
    """Make a bank of `count` memories for the default model at `root`; their ids.

    Raises:
        BankError: there is one already, or the disk refuses.
        ModelError: the default model or embedder cannot be found.
    """
    settings = default_settings()
    model = resolve_model()
    embedder = load_embedder()
    shapes = linear_shapes(model)
    memories = [
        NewMemory(f"The archive of room {n} holds {n + 3} maps of the island.", id=f"room-{n}")
        for n in range(count)
    ]
    keys = embedder.embed([memory.text for memory in memories])
    made_for = BankSettings(BaseModelInfo(DEFAULT_MODEL, fingerprint(model)), embedder.info)
    with create_catalog(root, made_for) as catalog, tempfile.TemporaryDirectory() as made:
        folders = [Path(made, memory.id) for memory in memories]
        for n, folder in enumerate(folders):
            folder.mkdir()
            write_adapter(folder, shapes, settings, 1000 * seed + n)
        put(catalog, list(zip(memories, map(key_bytes, keys), folders, strict=True)), shapes)
    return [memory.id for memory in memories]


def put(catalog: Catalog, memories: Sequence[tuple[NewMemory, bytes, Path]], shapes: Shapes) -> None:
    """Add or update memories in one change: each with its key, float32 [D], and its adapter, which is copied.

    Raises:
        AdapterError: an adapter must not be used.
        BankError: disk or database refuse.
    """
    drafts = [
        Draft(memory, text_digest(memory), key, trained=place(catalog, folder, check_adapter(folder, shapes)))
        for memory, key, folder in memories
    ]
    changes.put(catalog, drafts, "loadtest")


def write_adapter(
    folder: Path, shapes: dict[str, tuple[int, int]], settings: TrainSettings, seed: int
) -> None:
    """A random adapter, where training would put one, for the linear modules of `shapes`: (O, I) by name."""
    g = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    chosen = selected(shapes, settings)
    for name in chosen:
        out, into = shapes[name]
        tensors[peft_name(name, "A")] = torch.randn(settings.rank, into, generator=g) / into**0.5
        tensors[peft_name(name, "B")] = torch.randn(out, settings.rank, generator=g) * SCALE
    export(folder, tensors, DEFAULT_MODEL, settings, sorted(set(map(layer_index, chosen))))
