"""What a Hugging Face checkpoint is, read from its configs and the headers of its safetensors: no torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vllm_mega.errors import ModelError

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
MODULES = "modules.json"
"""Lists the parts of a sentence-transformers model."""
SENTENCE_CONFIG = "sentence_bert_config.json"

# What differs between two savings of one model, or follows from the tensors.
_VOLATILE = {"transformers_version", "torch_dtype", "dtype", "use_cache"}
_NOT_LINEAR = ("lm_head", "embed", "wte", "wpe")
_WINDOWS = 8
_WINDOW = 64
_MAX_HEADER = 100_000_000  # the format's own limit


class Tensor(NamedTuple):
    """Where a tensor lies, and what it is."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    """In bytes, from the beginning of the file."""
    size: int
    """In bytes."""


def fingerprint(path: Path) -> str:
    """Names the model at `path`: 32 hex digits over its configs and a sample of every tensor.

    Takes milliseconds, whatever the model's size; does not change when the folder is moved, or when
    the tensors are divided into other files.

    Args:
        path: folder of a checkpoint, or of a sentence-transformers model.

    Raises:
        ModelError: no safetensors there, or broken ones.
    """
    digest = hashlib.sha256()
    found = 0
    for part in _parts(path):
        folder = path / part
        for name in (CONFIG, SENTENCE_CONFIG, MODULES):
            if (folder / name).is_file():
                digest.update(json.dumps([part, name, _normal(_read_json(folder / name))]).encode())
        for name, tensor in sorted(tensors(folder).items()):
            digest.update(json.dumps([name, tensor.dtype, tensor.shape]).encode())
            digest.update(_sample(tensor))
            found += 1
    if not found:
        raise ModelError(
            f"{path}: expected weights as *.safetensors, found none. Save the model in that format"
        )
    return digest.hexdigest()[:32]


def linear_shapes(path: Path) -> dict[str, tuple[int, int]]:
    """(O, I) of every linear module of the checkpoint at `path`, by its name in the checkpoint.

    Embeddings and lm_head are left out: adapters do not touch them.

    Raises:
        ModelError: no safetensors there, broken ones, or no linear module in them.
    """
    shapes = {}
    for name, tensor in sorted(tensors(path).items()):
        module, _, kind = name.rpartition(".")
        if (
            kind == "weight"
            and len(tensor.shape) == 2
            and not module.rpartition(".")[2].startswith(_NOT_LINEAR)
        ):
            shapes[module] = (tensor.shape[0], tensor.shape[1])
    if not shapes:
        raise ModelError(
            f"{path}: expected linear layers (2-dimensional *.weight in *.safetensors), found none. "
            "Use a checkpoint with plain weights, not a quantised one"
        )
    return shapes


def model_config(path: Path) -> dict[str, Any]:
    """What config.json of the checkpoint at `path` says.

    Raises:
        ModelError: there is none, or it is not JSON.
    """
    config: dict[str, Any] = _read_json(path / CONFIG)
    return config


def is_whole(path: Path) -> bool:
    """Whether the folder `path` has a model config and every file of weights that it needs."""
    has_config = (path / CONFIG).is_file() or (path / MODULES).is_file()
    try:
        files = [file for part in _parts(path) for file in weight_files(path / part)]
    except ModelError:
        return False
    return has_config and bool(files) and all(file.is_file() for file in files)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files in `folder` that make the model; those of an index need not exist."""
    if (folder / INDEX).is_file():
        index = _read_json(folder / INDEX)
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
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(_MAX_HEADER, file.stat().st_size):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name, info in header.items():
            start, end = info["data_offsets"]
            if end < start or 8 + length + end > file.stat().st_size:
                raise ValueError(f"the bytes of {name} end behind the file")
            yield name, Tensor(file, info["dtype"], tuple(info["shape"]), 8 + length + start, end - start)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file}: expected a whole safetensors file, found otherwise ({error})") from error


def _sample(tensor: Tensor) -> bytes:
    """Eight windows of 64 bytes, evenly spread from the first byte to the last; all of a small tensor."""
    with tensor.file.open("rb") as stream:
        if tensor.size <= _WINDOWS * _WINDOW:
            return os.pread(stream.fileno(), tensor.size, tensor.start)
        starts = [(tensor.size - _WINDOW) * i // (_WINDOWS - 1) for i in range(_WINDOWS)]
        return b"".join(os.pread(stream.fileno(), _WINDOW, tensor.start + start) for start in starts)


def _parts(path: Path) -> list[str]:
    """The folder itself (''), and those of the modules of a sentence-transformers model."""
    if not (path / MODULES).is_file():
        return [""]
    modules = _read_json(path / MODULES)
    try:
        return sorted({"", *(module["path"] for module in modules)})
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path / MODULES}: expected a list of modules, each with a 'path'") from error


def _normal(value: Any) -> Any:
    """A config without what says nothing about the model; keys in order."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _VOLATILE and not k.startswith("_")}
        return {k: _normal(kept[k]) for k in sorted(kept)}
    return [_normal(v) for v in value] if isinstance(value, list) else value


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: expected JSON, found otherwise ({error})") from error
