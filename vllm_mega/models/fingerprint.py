"""One name for all copies of a model: 32 hex digits over what it computes, not over how it was written."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_mega.errors import ModelError
from vllm_mega.models.architectures import TIED_HEADS
from vllm_mega.models.checkpoint import (
    TOKENIZER_CONFIG,
    Part,
    Tensor,
    model_config,
    parts,
    read_json,
    tensors,
)
from vllm_mega.models.functional import functional, is_tied

SENTENCE_CONFIG = "sentence_bert_config.json"
_WINDOWS = 8
_WINDOW = 64
_BUFFERS = re.compile(
    r"(^|\.)(inv_freq|original_inv_freq|position_ids|token_type_ids|masked_bias|cos_cached|sin_cached)$"
)
"""What some versions save and all compute."""
_CAUSAL_MASK = re.compile(r"(^|\.)(attn|attention)\.bias$")
"""The same, if it has four axes: else it is a bias."""
_POOLING = "pooling_mode_"
_POOLINGS = {
    "cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "weightedmean_tokens": "weightedmean",
    "lasttoken": "lasttoken",
}  # fmt: skip
"""Flags of old versions and the names of new ones, in the order in which vectors are joined."""


def fingerprint(path: Path) -> str:
    """Names the model at `path`: 32 hex digits over what it computes.

    Looked at: of every tensor its name, type, shape and 512 bytes from eight places; of the config what
    `functional` keeps; of a sentence encoder also the order and kinds of its modules, the pooling, its
    longest input and lower casing, and the configs of other modules. Not looked at: the rest of the configs,
    buffers that follow from the config, a saved head where the head is the embedding, how tensors are
    divided into files, where the folder lies; and the tokenizer, the generation config and code that a
    checkpoint brings. So the same weights are the same model, whichever version has saved them.

    Takes milliseconds, whatever the model's size.

    Args:
        path: folder of a checkpoint, or of a sentence-transformers model.

    Raises:
        ModelError: no safetensors there, or broken ones.
    """
    digest = hashlib.sha256()
    counted = 0
    for number, part in enumerate(parts(path)):
        config = model_config(part.folder)
        digest.update(json.dumps([number, part.kind, _module(part, config)]).encode())
        for name, tensor in _weights(part.folder, config):
            digest.update(json.dumps([number, name, tensor.dtype, tensor.shape]).encode())
            digest.update(_sample(tensor))
            counted += 1
    if not counted:
        raise ModelError(
            f"{path}: expected weights as *.safetensors, found none. Save the model in that format"
        )
    return digest.hexdigest()[:32]


def _module(part: Part, config: dict[str, Any]) -> Any:
    """What the configs of a part say about what it computes."""
    if part.kind == "":
        return functional(config)
    if part.kind == "Transformer":
        return [functional(config), _longest_input(part.folder, config), _lower_case(part.folder)]
    if part.kind == "Pooling":
        return _pooling(config)
    if part.kind == "Normalize":
        return None
    return {name: config[name] for name in sorted(config) if config[name] is not None}


def _longest_input(folder: Path, config: dict[str, Any]) -> Any:
    """Tokens that a sentence encoder reads; new versions keep the number with the tokenizer."""
    for name, field in ((SENTENCE_CONFIG, "max_seq_length"), (TOKENIZER_CONFIG, "model_max_length")):
        value = read_json(folder / name).get(field) if (folder / name).is_file() else None
        if value is not None:
            return min(value, config.get("max_position_embeddings") or value)
    return config.get("max_position_embeddings")


def _lower_case(folder: Path) -> bool:
    return (folder / SENTENCE_CONFIG).is_file() and bool(
        read_json(folder / SENTENCE_CONFIG).get("do_lower_case")
    )


def _pooling(config: dict[str, Any]) -> Any:
    """Old versions have a flag for every way of pooling, new ones the names."""
    new = config.get("pooling_mode")
    if new is not None:
        modes = [new] if isinstance(new, str) else list(new)
    else:
        modes = [mode for flag, mode in _POOLINGS.items() if config.get(_POOLING + flag)]
    return [modes, config.get("include_prompt", True)]


def _weights(folder: Path, config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors that count, by name, in order."""
    tied = is_tied(config)
    for name, tensor in sorted(tensors(folder).items()):
        buffer = _BUFFERS.search(name) or (_CAUSAL_MASK.search(name) and len(tensor.shape) == 4)
        if not buffer and not (tied and TIED_HEADS.search(name)):
            yield (
                name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
                    "LayerNorm.beta", "LayerNorm.bias"
                ),
                tensor,
            )


def _sample(tensor: Tensor) -> bytes:
    """Eight windows of 64 bytes, evenly spread from the first byte to the last; all of a small tensor."""
    with tensor.file.open("rb") as stream:  # a regular file: its header was read
        if tensor.size <= _WINDOWS * _WINDOW:
            return os.pread(stream.fileno(), tensor.size, tensor.start)
        starts = [(tensor.size - _WINDOW) * i // (_WINDOWS - 1) for i in range(_WINDOWS)]
        return b"".join(os.pread(stream.fileno(), _WINDOW, tensor.start + start) for start in starts)
