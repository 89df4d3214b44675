"""What a request with a start should say: transformers, and adapters that are added by position."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from vllm_mega.mixture import Mixture

Parts = Sequence[tuple[str, float]]
"""Adapter folders and their weights."""


class ByPosition:
    """A plain model in float32 whose linear layers add adapters to the tokens from `start` on."""

    def __init__(self, model: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self._added: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._start = 0
        for name, module in self.model.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(partial(self._add, name))

    def _add(self, name: str, _: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        for a, b in self._added.get(name, ()):
            delta = (inputs[0] @ a.T) @ b.T
            delta[:, : self._start] = 0
            output = output + delta
        return output

    @torch.no_grad()
    def logprobs(self, tokens: Sequence[int], parts: Parts, start: int) -> torch.Tensor:
        """Of every next token: [T, vocabulary], for `tokens` [T]."""
        self._start, self._added = start, {}
        for folder, weight in parts:
            for name, a, b in self._read(Path(folder)):
                self._added.setdefault(name, []).append((a, weight * b))
        return self.model(torch.tensor([list(tokens)])).logits[0].log_softmax(-1)

    @staticmethod
    def _read(folder: Path) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
        config = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
        ends = ".lora_A.weight", ".lora_B.weight"
        names = [name.removesuffix(ends[0]) for name in tensors if name.endswith(ends[0])]
        scale = config["lora_alpha"] / config["r"]
        return [
            (name.removeprefix("base_model.model."), tensors[name + ends[0]], scale * tensors[name + ends[1]])
            for name in names
        ]


def parts_of(what: Any) -> Parts:
    """What a Mixture, a plain LoRARequest or None adds."""
    if isinstance(what, Mixture):
        return [(component.path, component.weight) for component in what.components]
    return [] if what is None else [(what.lora_path, 1.0)]
