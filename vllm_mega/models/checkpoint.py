"""What a Hugging Face checkpoint is, read from its configs and the headers of its safetensors: no torch."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vllm_mega.errors import ModelError
from vllm_mega.models.architectures import CONV1D, NOT_LINEAR
from vllm_mega.models.functional import text_config
from vllm_mega.regular_file import open_regular, read_regular

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
MODULES = "modules.json"
"""Lists the parts of a sentence-transformers model."""
TOKENIZER_CONFIG = "tokenizer_config.json"

_LENGTHS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
"""As vLLM 0.32 looks for them (transformers_utils/model_arch_config_convertor.py)."""
_SCALED = {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default"}
"""Rotary embeddings whose model says its longest context as it is."""
_PACKED = {"U8", "I32", "I64"}
"""Types of tensors in which quantised weights are packed: their shape is not that of the layer."""
_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
_UNKNOWN_LENGTH = 2048
_ENDLESS = 1e12
"""Tokenizers without a limit say 1e30."""
_MAX_HEADER = 100_000_000  # the format's own limit
_MAX_FILE = 1 << 44
"""Bytes of a file of weights."""
_MAX_JSON = 1 << 28
"""Bytes of a config or an index."""


class Tensor(NamedTuple):
    """Where a tensor lies, and what it is."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    """In bytes, from the beginning of the file."""
    size: int
    """In bytes."""


class Part(NamedTuple):
    """A model, or one module of a sentence-transformers model."""

    folder: Path
    kind: str
    """The class of the module, without its package: versions keep it in others. Empty for a model."""


def parts(path: Path) -> list[Part]:
    """The model in the folder `path`, or the modules of a sentence-transformers model, in order.

    Raises:
        ModelError: a list of modules that is none.
    """
    if not (path / MODULES).is_file():
        return [Part(path, "")]
    modules = read_json(path / MODULES)
    try:
        return [Part(path / module["path"], module["type"].rpartition(".")[2]) for module in modules]
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path / MODULES}: expected a list of modules, each with 'path' and 'type'"
        ) from error


def linear_shapes(path: Path) -> dict[str, tuple[int, int]]:
    """(O, I) of every linear module of the checkpoint at `path`, by its name in the checkpoint.

    Embeddings and lm_head are left out: adapters do not touch them.

    Raises:
        ModelError: no safetensors there, broken ones, no linear module in them, or one whose weights are
            transposed (GPT-2).
    """
    kind = text_config(model_config(path)).get("model_type")
    if kind in CONV1D:
        raise ModelError(
            f"{path}: {kind} keeps its linear weights transposed (Conv1D), and vLLM has no LoRA for it. "
            "Choose another base model with --model"
        )
    shapes = {}
    for name, tensor in sorted(tensors(path).items()):
        module, _, kind = name.rpartition(".")
        if (
            kind == "weight"
            and len(tensor.shape) == 2
            and tensor.dtype not in _PACKED
            and not module.rpartition(".")[2].startswith(NOT_LINEAR)
        ):
            shapes[module] = (tensor.shape[0], tensor.shape[1])
    if not shapes:
        raise ModelError(
            f"{path}: expected linear layers (2-dimensional *.weight in *.safetensors), found none. "
            "Use a checkpoint with plain weights, not a quantised one"
        )
    return shapes


def model_config(path: Path) -> dict[str, Any]:
    """Content of the config.json in the folder `path`; empty if there is none.

    Raises:
        ModelError: it is no JSON object.
    """
    config = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
    if not isinstance(config, dict):
        raise ModelError(f"{path / CONFIG}: expected a JSON object, found {type(config).__name__}")
    return config


def context_length(path: Path) -> int:
    """Tokens that the model at `path` reads at most, as vLLM derives it; 2,048 if it does not say.

    Raises:
        ModelError: a config that is no JSON.
    """
    config = text_config(model_config(path))
    lengths = [config[name] for name in _LENGTHS if config.get(name)]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if lengths and kind not in _SCALED and "gemma3" not in str(config.get("model_type")):
        lengths = [int(min(lengths) * (rope.get("factor") or 1))]
    if (path / TOKENIZER_CONFIG).is_file():
        lengths.append(read_json(path / TOKENIZER_CONFIG).get("model_max_length") or math.inf)
    longest = min(lengths, default=math.inf)
    return _UNKNOWN_LENGTH if longest > _ENDLESS else int(longest)


def weight_dtype(path: Path) -> str | None:
    """The type that the model at `path` computes in by itself: "float16", ...; None: another, or none.

    What the config says, or else the type of most of its weights.

    Raises:
        ModelError: broken weights, or a config that is no JSON.
    """
    config = model_config(path)
    for said in (config, text_config(config)):
        if dtype := said.get("dtype") or said.get("torch_dtype"):
            return str(dtype).removeprefix("torch.")
    sizes: Counter[str] = Counter()
    for tensor in tensors(path).values():
        sizes[tensor.dtype] += tensor.size
    return _DTYPES.get(max(sizes, key=sizes.__getitem__)) if sizes else None


def is_whole(path: Path) -> bool:
    """Whether the folder `path` has a model config and every file of weights that it needs."""
    has_config = (path / CONFIG).is_file() or (path / MODULES).is_file()
    try:
        files = [file for part in parts(path) for file in weight_files(part.folder)]
    except ModelError:
        return False
    return has_config and bool(files) and all(file.is_file() for file in files)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files in `folder` that make the model; those of an index need not exist."""
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        try:
            return [folder / name for name in sorted(set(index["weight_map"].values()))]
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{folder / INDEX}: expected a 'weight_map' of file names") from error
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    return sorted(folder.glob("*.safetensors"))


def weight_bytes(folder: Path) -> int:
    """Bytes of the model in `folder` (see `weight_files`)."""
    return sum(file.stat().st_size for file in weight_files(folder))


def tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint in `folder`, by name; only headers are read."""
    return {name: tensor for file in weight_files(folder) for name, tensor in _header(file)}


def _header(file: Path) -> Iterator[tuple[str, Tensor]]:
    """The format: 8 bytes little-endian length, so many bytes of JSON, then the data."""
    try:
        with open_regular(file, _MAX_FILE) as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(_MAX_HEADER, file.stat().st_size):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            if end < start or 8 + length + end > file.stat().st_size:
                raise ValueError(f"the bytes of {name} end behind the file")
            yield name, Tensor(file, entry["dtype"], tuple(entry["shape"]), 8 + length + start, end - start)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file}: expected a whole safetensors file, found otherwise ({error})") from error


def read_json(file: Path) -> Any:
    try:
        return json.loads(read_regular(file, _MAX_JSON).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: expected JSON, found otherwise ({error})") from error
