"""Checkpoints that cannot be trained on, told in one line before anything is trained. No torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from vllm_mega.errors import ModelError
from vllm_mega.models.architectures import HEADS
from vllm_mega.models.checkpoint import model_config, tensors
from vllm_mega.models.functional import is_tied, text_config

_DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_BODIES = re.compile(r"(Text)?Model$")
_ENCODERS = (
    "bert", "mpnet", "electra", "deberta", "nomic", "xlm-roberta", "layoutlm", "funnel", "albert",
)  # fmt: skip
"""Parts of the names of model types that have no causal language model, or none that anybody trains."""
_BOTH = {
    "t5", "mt5", "umt5", "longt5", "switch_transformers", "bart", "mbart", "pegasus", "marian", "led",
    "m2m_100", "nllb-moe", "blenderbot", "prophetnet", "whisper", "t5gemma", "t5gemma2",
}  # fmt: skip
"""Model types of an encoder and a decoder."""
_SHOWN = 3


def check_trainable(path: Path) -> None:
    """Refuse the checkpoint at `path` if memories cannot be trained on it; reads configs and headers only.

    Raises:
        ModelError: it is quantised, has an encoder, or no head of its own and none that is its embedding.
    """
    config = model_config(path)
    _refuse_quantised(path, config)
    _refuse_encoders(path, config)
    if is_tied(config) is False and not any(HEADS.search(name) for name in tensors(path)):
        raise ModelError(
            f"{path}: the checkpoint was saved without its head (tie_word_embeddings is false, and no "
            "lm_head.weight is there), so it would be a random one. Save the model with its head "
            "(AutoModelForCausalLM), and give that with --model"
        )


def refuse_missing(path: Path, missing: Collection[str]) -> None:
    """Refuse a checkpoint that has been loaded without the weights `missing`: they are random.

    Raises:
        ModelError: there are some.
    """
    if missing:
        raise ModelError(
            f"{path}: the checkpoint lacks {len(missing)} weights of its model ({_some(missing)}), which "
            "would be random. Give a whole checkpoint with --model"
        )


def load_error(path: Path, error: Exception, expected: str) -> ModelError:
    """What a library's `error` on loading `path` means; `expected`: what was to be there.

    The libraries' own words for code that a checkpoint brings are about their arguments, not our options.
    """
    text = str(error)
    if "trust_remote_code" in text:
        return ModelError(
            f"{path} brings code of its own, which is not run unasked: read it, and if you trust it, give "
            "--trust-remote-code"
        )
    return ModelError(f"{path}: expected {expected}: {' '.join(text.split())}")


def _refuse_quantised(path: Path, config: dict[str, Any]) -> None:
    said = config.get("quantization_config") or text_config(config).get("quantization_config")
    if said or "compression_config" in config:
        method = said.get("quant_method") if isinstance(said, dict) else None
        raise ModelError(
            f"{path}: the checkpoint is quantised ({method or 'by a method that it does not name'}), and "
            "memories are trained on plain weights. Train on the unquantised checkpoint: give it with --model"
        )


def _refuse_encoders(path: Path, config: dict[str, Any]) -> None:
    kind = str(config.get("model_type", ""))
    names = [str(name) for name in config.get("architectures") or ()]
    if config.get("is_encoder_decoder") or kind in _BOTH:
        what = "an encoder with a decoder"
    elif names and not any(name.endswith(_DECODERS) or _BODIES.search(name) for name in names):
        what = "no causal language model"
    elif any(part in kind for part in _ENCODERS) and not any(name.endswith(_DECODERS) for name in names):
        what = "an encoder"
    else:
        return
    raise ModelError(
        f"{path}: {', '.join(names) or kind} is {what}; expected a decoder such as Llama, Qwen or Gemma. "
        "Give one with --model (an encoder can be the --embedder)"
    )


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")
