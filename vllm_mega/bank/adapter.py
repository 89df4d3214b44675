"""Whether an adapter of a bank may be used: everything that could go wrong later, refused before.

Adapters in a bank are plain: one rank, one scale, tensors named as PEFT names them, and nothing beside A and
B. `bank.peft_import` makes such ones of others.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_mega.bank.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from vllm_mega.bank.lora_tensors import LARGEST, Pair, Shapes, check_shapes, checked_values, exhaust
from vllm_mega.bank.peft_config import MAX_CONFIG, PeftConfig, read_peft_config
from vllm_mega.bank.tensors import CONVERT, MAX_FILE, MAX_HEADER, TensorInfo, read_header, unreadable
from vllm_mega.errors import AdapterError
from vllm_mega.regular_file import open_regular

MAX_RANK = 512
"""The largest that vLLM serves."""
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_BYTES = 4
"""Of the widest number in an adapter."""


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


def adapter_digest(folder: Path, most: int = MAX_FILE) -> str:
    """SHA-256 over name, length and bytes of `adapter_config.json` and `adapter_model.safetensors`.

    Args:
        folder: of the adapter.
        most: bytes that the second may have.

    Raises:
        AdapterError: one of them is missing, cannot be read or is too large.
    """
    digest = hashlib.sha256()
    for name, limit in ((ADAPTER_CONFIG, MAX_CONFIG), (ADAPTER_WEIGHTS, most)):
        path = folder / name
        try:
            with open_regular(path, limit) as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(f"{name} {size}\n".encode())
                while size > 0 and (chunk := file.read(min(size, 1 << 20))):
                    digest.update(chunk)
                    size -= len(chunk)
        except FileNotFoundError as error:
            raise AdapterError(path, expected="a file of the adapter", found="no such file") from error
        except OSError as error:
            raise unreadable(folder, error) from error
    return digest.hexdigest()


def largest(shapes: Shapes) -> int:
    """The most bytes that the tensors' file of an adapter can have, if vLLM can serve it at all.

    Not by the rank that is served here: a rank above it is better told as such.
    """
    return MAX_HEADER + _BYTES * MAX_RANK * sum(out + into for out, into in shapes.values())


def check_adapter(
    folder: Path,
    shapes: Shapes,
    *,
    max_rank: int | None = None,
    expected_digest: str | None = None,
    largest_number: float = LARGEST,
) -> AdapterFacts:
    """Check the adapter in `folder` against the base model: digest, headers, then every value.

    Nothing that a file says is believed before the digest is right, if it is known.

    Args:
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.
        shapes: (O, I) of every linear module of the base model, by its path
            (`vllm_mega.models.linear_shapes`).
        max_rank: the largest rank that will be served; None: any that vLLM serves.
        expected_digest: what `adapter_digest` said when the adapter was added; None: not known.
        largest_number: of the type that the model computes in.

    Raises:
        AdapterError: the adapter must not be used; says which file, what was expected, what was
            found and what to change.
    """
    try:
        return _checked(folder, shapes, max_rank or MAX_RANK, expected_digest, largest_number)
    except OSError as error:
        raise unreadable(folder, error) from error


def _checked(
    folder: Path, shapes: Shapes, max_rank: int, expected_digest: str | None, largest_number: float
) -> AdapterFacts:
    config_path, path = folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS
    most = largest(shapes)
    if expected_digest is not None:
        _require_digest(folder, most, expected_digest)
    config = read_peft_config(config_path)
    _require_plain(config_path, config, max_rank)
    require_weights(path)
    infos, start = read_header(path, most)
    pairs = _pairs(path, infos)
    check_shapes(path, pairs, infos, shapes, dict.fromkeys(pairs, config.r))
    limits = largest_number, largest_number / max(1, abs(config.scale(config.r, config.lora_alpha)))
    exhaust(checked_values(path, infos, start, pairs, limits))
    digest = expected_digest or adapter_digest(folder, most)
    size = config_path.stat().st_size + path.stat().st_size
    return AdapterFacts(digest, size, config.r, tuple(sorted(pairs)))


def _require_digest(folder: Path, most: int, expected: str) -> None:
    digest = adapter_digest(folder, most)
    if digest != expected:
        raise AdapterError(
            folder,
            expected=f"an adapter with SHA-256 {expected}",
            found=digest,
            change="It was changed after it was added; add it again",
        )


def _require_plain(path: Path, config: PeftConfig, max_rank: int) -> None:
    """Refuse what only `bank.peft_import` can read, and too high a rank."""
    require_rank(path, config.r, max_rank)
    for name, neutral in (
        ("rank_pattern", None),
        ("alpha_pattern", None),
        ("modules_to_save", None),
        ("bias", "none"),
    ):
        value = getattr(config, name)
        if value and value != neutral:
            raise AdapterError(
                path,
                expected=f"{name} unset",
                found=f"{value!r}",
                change="`vllm-mega bank add` makes a plain adapter of it, where that can be done",
            )


def require_rank(path: Path, rank: int, max_rank: int) -> None:
    """Refuse a rank that is not served.

    Raises:
        AdapterError: it is above `max_rank`.
    """
    if rank > max_rank:
        raise AdapterError(
            path,
            expected=f"a rank r of at most {max_rank}",
            found=repr(rank),
            change=f"Raise the limit (max_lora_rank, --max-rank; vLLM serves {MAX_RANK}), or train at less",
        )


def require_weights(path: Path) -> None:
    """Refuse an adapter without `adapter_model.safetensors`.

    Raises:
        AdapterError: it is missing, or a pickle is in its place.
    """
    if path.exists():
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


def _pairs(path: Path, infos: Mapping[str, TensorInfo]) -> dict[str, Pair]:
    """The modules that the tensor names speak of; every one has A and B."""
    pairs: dict[str, Pair] = {}
    for name in sorted(infos):
        suffix = name[-len(_A) :]
        if not name.startswith(_PREFIX) or suffix not in (_A, _B):
            raise AdapterError(
                path,
                expected=f"tensors named {_PREFIX}<module>{_A} or {_B}",
                found=f"{name!r}",
                change="It would be ignored when serving; train LoRA on linear layers only",
            )
        whole = name.removesuffix(suffix)
        pair = Pair(whole + _A, whole + _B)
        require_both(path, pair, infos)
        pairs[whole.removeprefix(_PREFIX)] = pair
    require_some(path, pairs)
    return pairs


def require_both(path: Path, pair: Pair, infos: Mapping[str, TensorInfo]) -> None:
    """Refuse half a pair.

    Raises:
        AdapterError: names the half that is missing.
    """
    for name, counterpart in (pair, pair[::-1]):
        if name not in infos:
            raise AdapterError(
                path,
                expected=f"the tensor {name}",
                found=f"only {counterpart}",
                change="Export the adapter again",
            )


def require_some(path: Path, pairs: Mapping[str, Pair]) -> None:
    """Refuse an adapter without any pair.

    Raises:
        AdapterError: there is none.
    """
    if not pairs:
        raise AdapterError(path, expected="LoRA tensors", found="none", change="Export the adapter again")


def plain_names(module: str) -> Pair:
    """What the tensors of `module` are called in a plain adapter."""
    return Pair(_PREFIX + module + _A, _PREFIX + module + _B)
