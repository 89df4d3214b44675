"""The model that adapters are trained on: loaded once, frozen, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vllm_mega._quiet import quiet
from vllm_mega.errors import ModelError
from vllm_mega.models.chat_format import load_chat_format
from vllm_mega.training import fused
from vllm_mega.training.lora import LoraStack
from vllm_mega.training.model import SplitModel
from vllm_mega.training.settings import TrainSettings


class FrozenModel:
    """A frozen model with room for `settings.jobs` adapters."""

    def __init__(self, path: Path, settings: TrainSettings, device: str | None = None) -> None:
        """Load the checkpoint at `path`.

        Args:
            path: folder of the checkpoint.
            settings: shape of the adapters and how they are trained.
            device: of torch; None: a GPU if there is one.

        Raises:
            ModelError: it cannot be loaded, cannot be run on packed rows, or does not have the layers that
                `settings` asks for.
        """
        from transformers import AutoModelForCausalLM

        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.chat = load_chat_format(path, settings.chat_template)
        try:
            with quiet():
                self.model: Any = AutoModelForCausalLM.from_pretrained(
                    path, dtype=_compute_dtype(self.device), attn_implementation="eager"
                )
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot load the model at {path}: {error}") from error
        self.model.to(self.device).eval()
        self.settings = settings
        self.stack = LoraStack(self.model, settings, settings.jobs)
        self.split = SplitModel(self.model, self.stack.layers[0])
        fused.install(self.model)
        self.flops = 0.0
        """Multiplications and additions so far, counted from shapes."""

    @property
    def layers(self) -> list[int]:
        """Indices of the layers that have adapters, ascending."""
        return self.stack.layers


def _compute_dtype(device: torch.device) -> torch.dtype | str:
    """The model's own type, but float32 on x86 CPUs without AVX-512: bfloat16 products crawl there."""
    slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.float32 if slow else "auto"
