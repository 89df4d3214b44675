"""The model that adapters are trained on: loaded once, frozen, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vllm_mega._quiet import quiet
from vllm_mega.contract.checking import require
from vllm_mega.contract.of_transformers import TRANSFORMERS
from vllm_mega.models.chat_format import load_chat_format
from vllm_mega.models.dtype import cpu_dtype
from vllm_mega.models.refusals import check_trainable, load_error, refuse_missing
from vllm_mega.training.compute import fused
from vllm_mega.training.compute.lora import LoraStack
from vllm_mega.training.compute.model import SplitModel, untouched_copy
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.targets import resolved

_TEXT = Path(__file__).parents[2] / "examples" / "plain_text.txt"
"""Tokens of it check the model."""


class FrozenModel:
    """A frozen model with room for `recipe.jobs` adapters."""

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        device: str | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> None:
        """Load the checkpoint at `path`.

        Args:
            path: folder of the checkpoint.
            recipe: shape of the adapters and how they are trained.
            device: of torch; None: a GPU if there is one.
            trust_remote_code: whether to run code that the checkpoint brings.

        Raises:
            ModelError: it cannot be loaded or lacks weights, cannot be run on packed rows, or does not have
                the layers that `recipe` asks for.
            UpstreamError: transformers is not what this was written for.
        """
        require(TRANSFORMERS)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.chat = load_chat_format(path, recipe.chat_template, trust_remote_code=trust_remote_code)
        self.model = _load(path, _compute_dtype(path, self.device), trust_remote_code=trust_remote_code)
        self.model.to(self.device).eval()
        self.untouched = untouched_copy(self.model)
        self.recipe = resolved(recipe, self.model.config.to_dict())
        self.stack = LoraStack(self.model, self.recipe, recipe.jobs)
        text = self.chat.tokenizer(_TEXT.read_text(encoding="utf-8"))["input_ids"]
        fused.install(self.model, self.untouched, torch.tensor(text, device=self.device))
        self.split = SplitModel(self.model, self.stack.layers[0], self.untouched, text)
        self.stack.at_labels = self.split.at_labels
        self.flops = 0.0
        """Multiplications and additions so far, counted from shapes."""

    @property
    def layers(self) -> list[int]:
        """Indices of the layers that have adapters, ascending."""
        return self.stack.layers


def _load(path: Path, dtype: torch.dtype | str, *, trust_remote_code: bool) -> Any:
    """The model at `path`, with all of its weights."""
    from transformers import AutoModelForCausalLM

    check_trainable(path)
    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype,
                attn_implementation="eager",
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise load_error(path, error, "a causal language model") from error
    refuse_missing(path, info["missing_keys"])
    return model


def _compute_dtype(path: Path, device: torch.device) -> torch.dtype | str:
    """The checkpoint's own type, but on CPUs one that they compute in fast."""
    dtype = cpu_dtype(path) if device.type == "cpu" else None
    return getattr(torch, dtype) if dtype else "auto"
