"""Models by name: the defaults (prepared once into a cache folder), local paths and Hugging Face ids."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from vllm_mega.errors import ModelError
from vllm_mega.home import home
from vllm_mega.models.checkpoint import is_whole
from vllm_mega.models.recipes import make_minilm, make_smollm2

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
DEFAULT_EMBEDDER = "all-MiniLM-L6-v2"
BASE_PREFIX = "base:"
"""An embedder `base:<model>` is made of a base model (paper, section "Method")."""

# What a served model or a sentence encoder needs; repositories hold other formats of the same weights.
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
_HUB_IGNORED = ["consolidated*", "original/*", "onnx/*", "openvino/*"]


def resolve_model(name: str = DEFAULT_MODEL) -> Path:
    """The folder of the base model `name`, prepared or downloaded if need be.

    Args:
        name: the default model's name, the path of a checkpoint, or a Hugging Face id.

    Raises:
        ModelError: it cannot be found or prepared.
    """
    return _prepared(name, make_smollm2) if name == DEFAULT_MODEL else _found(name)


def resolve_embedder(name: str = DEFAULT_EMBEDDER) -> Path:
    """The folder of the embedder `name`; of `base:<model>`, the folder of that base model.

    Raises:
        ModelError: it cannot be found or prepared.
    """
    if name.startswith(BASE_PREFIX):
        return resolve_model(name.removeprefix(BASE_PREFIX))
    return _prepared(name, make_minilm) if name == DEFAULT_EMBEDDER else _found(name)


def find_here(name: str) -> Path | None:
    """The folder of the model `name`, base or embedder, if it is on this machine; nothing is made.

    Args:
        name: as for `resolve_model` and `resolve_embedder`.

    Returns:
        None: it would have to be prepared or downloaded.

    Raises:
        ModelError: a path where there is no checkpoint.
    """
    name = name.removeprefix(BASE_PREFIX)
    if name in {DEFAULT_MODEL, DEFAULT_EMBEDDER}:
        target = home() / "models" / name
        return target if target.is_dir() else None
    return _local(name) or _cached(name)


def resolve_recorded(given: str | None, recorded: str) -> Path:
    """The folder of a bank's base model: of `given`, or else of the one that the bank has `recorded`.

    Raises:
        ModelError: it cannot be found; if the recorded one has moved, the message says what to do.
    """
    if given is not None:
        return resolve_model(given)
    try:
        return resolve_model(recorded)
    except ModelError as error:
        raise ModelError(
            f"the bank's base model cannot be found ({error}). If it has moved, give its new place with "
            "--model"
        ) from error


def stable_name(name: str) -> str:
    """`name` as a bank remembers it: the path of a local folder made absolute, any other name as it is."""
    path = Path(name).expanduser()
    return str(path.absolute()) if name not in {DEFAULT_MODEL, DEFAULT_EMBEDDER} and path.is_dir() else name


def _prepared(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of a default model; `make` fills it the first time.

    It appears by a rename, so that whatever is there is whole. Of two processes one makes it.
    """
    target = home() / "models" / name
    if target.is_dir():
        return target

    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{name}.lock")):
            if not target.is_dir():
                _stage(target.with_name(f".{name}.staging"), target, make)
    except OSError as error:
        raise ModelError(
            f"{name} could not be prepared in {target.parent}: {error}. "
            "Set VLLM_MEGA_HOME to a folder with 500 MB to spare"
        ) from error
    return target


def _stage(stage: Path, target: Path, make: Callable[[Path], None]) -> None:
    """Make, sync, rename. Only the holder of the lock comes here, so what lies there was left by a crash."""
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    try:
        make(stage)
        _sync(stage)
        stage.rename(target)
        _sync_entry(target.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _found(name: str) -> Path:
    """A local path, or a snapshot from the hub: what is in its cache is not asked for again."""
    return _local(name) or _snapshot(name)


def _local(name: str) -> Path | None:
    """A local path; None: the name of something else."""
    path = Path(name).expanduser()
    if name and path.is_dir():
        if not is_whole(path):
            raise ModelError(
                f"{path}: expected config.json (or modules.json) and weights as *.safetensors, "
                f"found {_instead(path)}"
            )
        return path.absolute()
    if path.is_file():
        raise ModelError(f"{path}: expected the folder of a checkpoint, found a file")
    if not name or path.is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"{name!r}: no such folder. Give the path of a checkpoint, or a Hugging Face id")
    return None


def _instead(path: Path) -> str:
    """What a folder without a whole checkpoint has, and what to do about it."""
    for ending, what in ((".gguf", "GGUF files"), (".bin", "pickled weights"), (".pth", "pickled weights")):
        if next(path.glob(f"*{ending}"), None):
            return (
                f"{what} (*{ending}) only. Give the model as transformers saves it: a folder with --model, "
                "or its Hugging Face id"
            )
    return "a folder without"


def _snapshot(name: str) -> Path:
    why = ""
    for local in (True, False):
        try:
            folder = _download(name, local=local)
        except Exception as error:  # the hub's client raises from many trees, and those of its HTTP library
            why = str(error).partition("\n")[0]
        else:
            if is_whole(folder):
                return folder
            why = "it has no config.json with weights as *.safetensors"
    raise ModelError(
        f"{name!r} is not {DEFAULT_MODEL}, {DEFAULT_EMBEDDER} or a local folder, is not in the Hugging Face "
        f"cache, and could not be downloaded: {why}"
    )


def _cached(name: str) -> Path | None:
    """The snapshot in the hub's cache; None: there is none, or not all of it."""
    import huggingface_hub.errors

    try:
        folder = _download(name, local=True)
    except (huggingface_hub.errors.LocalEntryNotFoundError, huggingface_hub.errors.HFValidationError):
        return None
    return folder if is_whole(folder) else None


def _download(name: str, *, local: bool) -> Path:
    """The hub's snapshot; `local`: only what is in its cache."""
    import huggingface_hub

    return Path(
        huggingface_hub.snapshot_download(
            name, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_IGNORED, local_files_only=local
        )
    )


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync_entry(path)


def _sync_entry(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
