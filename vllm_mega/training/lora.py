"""Thin LoRA modules: one set of adapters on a frozen model, emptied and trained again for each memory.

    y = W x + (alpha / rank) * B (A x)        A [R, I], B [O, R]

A and B are float32 and enter the product in the model's type, so that an adapter exported in that
type computes what training saw.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn

from vllm_mega.errors import ModelError
from vllm_mega.training.settings import TrainSettings

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


class LoraLinear(nn.Module):
    """A frozen linear layer and its adapter."""

    def __init__(self, base: nn.Linear, rank: int, scaling: float) -> None:
        super().__init__()
        self.base = base
        self.scaling = scaling
        self.A = nn.Parameter(torch.zeros(rank, base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        low = nn.functional.linear(x, self.A.to(x.dtype))
        if self.scaling != 1.0:
            low = low * self.scaling
        y: Tensor = self.base(x) + nn.functional.linear(low, self.B.to(x.dtype))
        return y


class LoraStack:
    """All adapters on one model."""

    def __init__(self, model: nn.Module, settings: TrainSettings) -> None:
        """Freeze `model` and put an empty adapter on every linear layer that `settings` chooses.

        Raises:
            ModelError: the model has no such linear layers.
        """
        model.requires_grad_(requires_grad=False)
        self.settings = settings
        self.modules: dict[str, LoraLinear] = {}
        for name in target_names(model, settings):
            parent, _, last = name.rpartition(".")
            base = model.get_submodule(name)
            assert isinstance(base, nn.Linear)
            lora = LoraLinear(base, settings.rank, settings.scaling)
            setattr(model.get_submodule(parent), last, lora)
            self.modules[name] = lora

    @property
    def layers(self) -> list[int]:
        """Indices of the layers that have adapters, ascending."""
        return sorted({layer_index(name) for name in self.modules})

    def parameters(self) -> list[nn.Parameter]:
        return [p for lora in self.modules.values() for p in (lora.A, lora.B)]

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """Empty all adapters: A uniform as in PEFT (Kaiming, a = sqrt 5), B zero."""
        generator = torch.Generator().manual_seed(seed)
        for lora in self.modules.values():
            lora.A.uniform_(-1.0, 1.0, generator=generator).div_(math.sqrt(lora.base.in_features))
            lora.B.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all A [R, I] and B [O, R], float32, named as PEFT names them."""
        return {
            f"base_model.model.{name}.lora_{part}.weight": tensor.detach().clone()
            for name, lora in self.modules.items()
            for part, tensor in (("A", lora.A), ("B", lora.B))
        }


def layer_index(name: str) -> int:
    """The layer that the module `name` belongs to; -1: none."""
    match = _LAYER.search(name)
    return int(match[1]) if match else -1


def target_names(model: nn.Module, settings: TrainSettings) -> list[str]:
    """Names of the linear layers that get an adapter.

    Raises:
        ModelError: one of `settings.modules` names none.
    """
    linear = [
        name for name, m in model.named_modules() if isinstance(m, nn.Linear) and layer_index(name) >= 0
    ]
    count = 1 + max((layer_index(name) for name in linear), default=-1)
    chosen = [name for name in linear if layer_index(name) >= count - settings.layers]
    chosen = [name for name in chosen if name.rpartition(".")[2] in settings.modules]
    missing = set(settings.modules) - {name.rpartition(".")[2] for name in chosen}
    if missing:
        there = sorted({name.rpartition(".")[2] for name in linear})
        raise ModelError(
            f"the model has no linear layers named {', '.join(sorted(missing))} "
            f"in its upper {settings.layers} layers; choose modules from: {', '.join(there) or 'none'}"
        )
    return chosen
