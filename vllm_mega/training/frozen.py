"""The model that adapters are trained on: loaded once, frozen, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vllm_mega._quiet import quiet
from vllm_mega.errors import ModelError
from vllm_mega.training import fused
from vllm_mega.training.lora import LoraStack
from vllm_mega.training.model import SplitModel, untouched_copy
from vllm_mega.training.settings import TrainSettings

_TEXT = Path(__file__).parent.parent / "examples" / "plain_text.txt"
"""Tokens of it check the model."""


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
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            with quiet():
                self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
                self.model: Any = AutoModelForCausalLM.from_pretrained(
                    path, dtype=_compute_dtype(self.device), attn_implementation="eager"
                )
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot load the model at {path}: {error}") from error
        self.model.to(self.device).eval()
        self.untouched = untouched_copy(self.model)
        self.stack = LoraStack(self.model, settings, settings.jobs)
        self.settings = self.stack.settings
        text = self.tokenizer(_TEXT.read_text(encoding="utf-8"))["input_ids"]
        fused.install(self.model, self.untouched, torch.tensor(text, device=self.device))
        self.split = SplitModel(self.model, self.stack.layers[0], self.untouched, text)
        self.end_ids = _end_ids(self.model, self.tokenizer)
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


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer, the tokenizer's own first."""
    found = [tokenizer.eos_token_id, model.generation_config.eos_token_id]
    flat = [i for ids in found if ids is not None for i in (ids if isinstance(ids, list) else [ids])]
    if not flat:
        raise ModelError("neither the tokenizer nor the generation config of the model names an end token")
    return list(dict.fromkeys(flat))
