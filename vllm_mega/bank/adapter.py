"""Whether an adapter may be used: everything that could go wrong later, refused before it is added."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_mega.bank.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from vllm_mega.bank.peft_config import PeftConfig, ends_with, read_peft_config
from vllm_mega.bank.tensors import CONVERT, TensorInfo, all_finite, all_zero, read_header, read_values
from vllm_mega.errors import AdapterError

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_DTYPES = ("BF16", "F16", "F32")


@dataclass(frozen=True)
class AdapterFacts:
    """What is worth knowing about a checked adapter."""

    digest: str
    """`adapter_digest` of it."""
    bytes: int
    """Size of both files."""
    rank: int
    modules: tuple[str, ...]
    """The modules it changes, sorted, as paths in the base model."""


def adapter_digest(folder: Path) -> str:
    """SHA-256 over name, length and bytes of `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        AdapterError: one of them is missing.
    """
    digest = hashlib.sha256()
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        path = folder / name
        try:
            with path.open("rb") as file:
                digest.update(f"{name} {path.stat().st_size}\n".encode())
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        except FileNotFoundError as error:
            raise AdapterError(path, expected="a file of the adapter", found="no such file") from error
    return digest.hexdigest()


def check_adapter(
    folder: Path,
    shapes: Mapping[str, tuple[int, int]],
    *,
    max_rank: int | None = None,
    expected_digest: str | None = None,
) -> AdapterFacts:
    """Check the PEFT adapter in `folder` against the base model; headers first, then every value.

    Args:
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.
        shapes: (O, I) of every linear module of the base model, by its path
            (`vllm_mega.models.linear_shapes`).
        max_rank: the largest rank that will be served; None: any.
        expected_digest: what `adapter_digest` said when the adapter was added; None: not known.

    Raises:
        AdapterError: the adapter must not be used; says which file, what was expected, what was
            found and what to change.
    """
    try:
        return _checked(folder, shapes, max_rank, expected_digest)
    except OSError as error:
        raise AdapterError(
            error.filename or folder,
            expected="a file that can be read",
            found=error.strerror or str(error),
            change="Mend it, or add the adapter again",
        ) from error


def _checked(
    folder: Path, shapes: Mapping[str, tuple[int, int]], max_rank: int | None, expected_digest: str | None
) -> AdapterFacts:
    config_path, path = folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS
    config = read_peft_config(config_path, max_rank)
    _require_weights(path)
    infos, start = read_header(path)
    modules = _pair(path, infos)
    for module in modules:
        _check_module(path, module, infos, config, shapes)
    _check_targets(config_path, config, modules)
    digest = adapter_digest(folder)
    if expected_digest is not None and digest != expected_digest:
        raise AdapterError(
            folder,
            expected=f"an adapter with SHA-256 {expected_digest}",
            found=digest,
            change="It was changed after it was added; add it again",
        )
    _check_values(path, infos, start, modules)
    size = config_path.stat().st_size + path.stat().st_size
    return AdapterFacts(digest, size, config.r, tuple(sorted(modules)))


def _require_weights(path: Path) -> None:
    if path.is_file():
        return
    for name in ("adapter_model.bin", "adapter_model.pt"):
        if path.with_name(name).exists():
            raise AdapterError(
                path.with_name(name), expected=f"{ADAPTER_WEIGHTS}", found="a pickle", change=CONVERT
            )
    raise AdapterError(
        path,
        expected="the adapter's tensors",
        found="no such file",
        change="Give the folder that PEFT's save_pretrained wrote",
    )


def _pair(path: Path, infos: dict[str, TensorInfo]) -> list[str]:
    """The modules that the tensor names speak of; every one has A and B."""
    modules: list[str] = []
    for name in sorted(infos):
        suffix = name[-len(_A) :]
        if not name.startswith(_PREFIX) or suffix not in (_A, _B):
            raise AdapterError(
                path,
                expected=f"tensors named {_PREFIX}<module>{_A} or {_B}",
                found=f"{name!r}",
                change="It would be ignored when serving; train LoRA on linear layers only",
            )
        other = name.removesuffix(suffix) + (_B if suffix == _A else _A)
        if other not in infos:
            raise AdapterError(
                path, expected=f"the tensor {other}", found=f"only {name}", change="Export the adapter again"
            )
        if suffix == _A:
            modules.append(name.removeprefix(_PREFIX).removesuffix(_A))
    if not modules:
        raise AdapterError(path, expected="LoRA tensors", found="none", change="Export the adapter again")
    return modules


def _check_module(
    path: Path,
    module: str,
    infos: dict[str, TensorInfo],
    config: PeftConfig,
    shapes: Mapping[str, tuple[int, int]],
) -> None:
    """Names, types and both axes of A [R, I] and B [O, R]."""
    if module not in shapes:
        near = difflib.get_close_matches(module, shapes, n=1)
        raise AdapterError(
            path,
            expected="linear modules of the base model" + (f", such as {near[0]}" if near else ""),
            found=f"tensors for {module}",
            change="The adapter belongs to another base model, or to a module that is not served",
        )
    if not config.targets(module):
        raise AdapterError(
            path,
            expected=f"only modules that {ADAPTER_CONFIG} targets",
            found=f"tensors for {module}",
            change="PEFT would ignore them and vLLM would not: make target_modules say what there is",
        )
    out, into = shapes[module]
    for name, axes, wanted in (
        (_PREFIX + module + _A, ("rank r", "input features"), (config.r, into)),
        (_PREFIX + module + _B, ("output features", "rank r"), (out, config.r)),
    ):
        info = infos[name]
        if info.dtype not in _DTYPES:
            raise AdapterError(
                path,
                expected=f"{name} as one of {', '.join(_DTYPES)}",
                found=info.dtype,
                change="Export the adapter in the base model's type",
            )
        _check_axes(path, name, info.shape, axes, wanted)


def _check_axes(
    path: Path, name: str, shape: tuple[int, ...], axes: tuple[str, str], wanted: tuple[int, int]
) -> None:
    if len(shape) != 2:
        raise AdapterError(
            path,
            expected=f"{name} with 2 axes",
            found=f"{len(shape)}: {list(shape)}",
            change="Export it again",
        )
    for axis, (found, expected) in enumerate(zip(shape, wanted, strict=True)):
        if found != expected:
            raise AdapterError(
                path,
                expected=f"{name} of shape {list(wanted)}",
                found=f"{list(shape)}: axis {axis} ({axes[axis]}) is {found}, not {expected}",
                change="The rank must be r of the configuration"
                if axes[axis] == "rank r"
                else "The adapter belongs to another base model",
            )


def _check_targets(path: Path, config: PeftConfig, modules: list[str]) -> None:
    for entry in config.entries():
        if not any(ends_with(module, entry) for module in modules):
            raise AdapterError(
                path,
                expected=f"tensors for every entry of target_modules {config.entries()}",
                found=f"none for {entry!r}",
                change="Drop the entry, or export the adapter again with all its tensors",
            )


def _check_values(path: Path, infos: dict[str, TensorInfo], start: int, modules: list[str]) -> None:
    """Finite everywhere, and not without effect."""
    zero: set[str] = set()
    for name, values in read_values(path, infos, start):
        if not all_finite(values):
            raise AdapterError(
                path, expected="finite values", found=f"NaN or infinity in {name}", change="Train it again"
            )
        if all_zero(values):
            zero.add(name)
    if all(zero & {_PREFIX + module + _A, _PREFIX + module + _B} for module in modules):
        raise AdapterError(
            path,
            expected="an adapter that changes the model",
            found="A or B all zero in every module",
            change="It was never trained, or saved too early: train it again",
        )
