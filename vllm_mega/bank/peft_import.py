"""Adapters as PEFT and others write them, made plain: what a bank holds, and vLLM computes exactly.

Ranks and scales that differ from module to module go into A and B; names become the base model's; what is
saved beside A and B is left out if it is what the base model has, and refused otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from vllm_mega.bank import files
from vllm_mega.bank.adapter import MAX_RANK, plain_names, require_rank, require_some, require_weights
from vllm_mega.bank.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from vllm_mega.bank.lora_tensors import Shapes, check_shapes, checked_values
from vllm_mega.bank.patterns import first_matches
from vllm_mega.bank.peft_config import PeftConfig, read_peft_config
from vllm_mega.bank.peft_names import same_module, sort_names, unwrapped
from vllm_mega.bank.tensors import TensorInfo, as_float32, encode_tensors, read_header, unreadable
from vllm_mega.errors import AdapterError

Values = npt.NDArray[Any]
"""Of one tensor; uint16 means the bits of bfloat16."""
_AROUND = re.compile(r"\.base_layer(?=\.)|\.original_module(?=\.)|\.modules_to_save\.[^.]+(?=\.)")
"""What PEFT puts into the names of weights around which it has put something."""
Number = TypeVar("Number", int, float)


class Base(Protocol):
    """What is asked of the base model."""

    @property
    def shapes(self) -> Shapes:
        """(O, I) of every linear module."""

    @property
    def names(self) -> Collection[str]:
        """Names of all tensors of the base model."""

    def equals(self, name: str, dtype: str, shape: tuple[int, ...], file: Path, start: int) -> bool:
        """Whether the tensor `name`, one of `names`, has the values that lie in `file` from `start` on."""


def find_adapter(folder: Path) -> Path:
    """The folder with the adapter: `folder`, or the only one in it that has one.

    Raises:
        AdapterError: there are several, or none.
    """
    if (folder / ADAPTER_CONFIG).exists() or not folder.is_dir():
        return folder
    inside = sorted(path.parent for path in folder.glob(f"*/{ADAPTER_CONFIG}"))
    if len(inside) > 1:
        raise AdapterError(
            folder,
            expected="one adapter",
            found=f"{len(inside)}: {', '.join(path.name for path in inside[:10])}",
            change=f"Say which: --adapter {inside[0]}",
        )
    return inside[0] if inside else folder


def import_adapter(folder: Path, target: Path, base: Base, *, max_rank: int | None = None) -> None:
    """Write what the PEFT adapter in `folder` computes as a plain one into the folder `target`.

    Args:
        folder: as `find_adapter` gives it.
        target: an empty folder.
        base: the base model.
        max_rank: the largest rank allowed; None: any that vLLM serves.

    Raises:
        AdapterError: it cannot be served exactly; says why, and what to change.
    """
    try:
        _import(folder, target, base, max_rank or MAX_RANK)
    except OSError as error:
        raise unreadable(folder, error) from error


def _import(folder: Path, target: Path, base: Base, max_rank: int) -> None:
    config_path, path = folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS
    config = read_peft_config(config_path)
    require_weights(path)
    infos, start = read_header(path)
    pairs, own, beside = sort_names(path, infos, base.shapes)
    require_some(path, pairs)
    scaling = _scaling(config_path, config, own)
    for rank in scaling.ranks.values():
        require_rank(config_path, rank, max_rank)
    check_shapes(path, pairs, infos, base.shapes, scaling.ranks)
    for name in beside:
        _require_base(path, name, infos[name], start, base)
    values = {
        name: part.reshape(infos[name].shape) for name, part in checked_values(path, infos, start, pairs)
    }
    tensors: dict[str, Values] = {}
    for module, pair in pairs.items():
        a, b = scaling.folded(module, values.pop(pair.a), values.pop(pair.b))
        if not np.isfinite(b).all():
            raise AdapterError(
                config_path,
                expected="finite values of B, scaled",
                found=f"a scale of {scaling.scales[module]:g} for {module}",
                change="Export the adapter again",
            )
        tensors |= zip(plain_names(module), (a, b), strict=True)
    weights = encode_tensors(tensors)
    files.write_file(target / ADAPTER_CONFIG, _plain_config(scaling, sorted(pairs)))
    files.write_file(target / ADAPTER_WEIGHTS, weights)


@dataclass(frozen=True)
class _Scaling:
    """Rank and scale of every module, and what becomes of them."""

    ranks: Mapping[str, int]
    scales: Mapping[str, float]

    @property
    def rank(self) -> int:
        """Of the plain adapter."""
        return max(self.ranks.values())

    @property
    def scale(self) -> float | None:
        """Of all modules; None: they differ, and go into B."""
        different = set(self.scales.values())
        return different.pop() if len(different) == 1 else None

    def folded(self, module: str, a: Values, b: Values) -> tuple[Values, Values]:
        """A [R, I] and B [O, R] of the plain adapter.

        B is scaled in float64 and rounded once, to float32. Rows of A and columns of B that are zero add
        nothing, and here they do not change the scale, as they would in PEFT.
        """
        more = self.rank - self.ranks[module]
        if self.scale is None:
            with np.errstate(over="ignore"):  # infinity tells
                b = (as_float32(b).astype(np.float64) * self.scales[module]).astype(np.float32)
        return np.pad(a, ((0, more), (0, 0))), np.pad(b, ((0, 0), (0, more)))


def _scaling(path: Path, config: PeftConfig, own: Mapping[str, str]) -> _Scaling:
    """Of every module of the base model, by what PEFT called it (`own`)."""
    ranks = _chosen(path, "rank_pattern", config.rank_pattern or {}, config.r, own)
    alphas = _chosen(path, "alpha_pattern", config.alpha_pattern or {}, config.lora_alpha, own)
    return _Scaling(ranks, {module: config.scale(ranks[module], alphas[module]) for module in own})


def _chosen(
    path: Path, field: str, pattern: Mapping[str, Number], default: Number, own: Mapping[str, str]
) -> dict[str, Number]:
    """By module, the value of the first key of `pattern` that matches its name, as PEFT does."""
    try:
        places = first_matches(list(pattern), list(own.values()))
    except ValueError as error:
        raise AdapterError(
            path,
            expected=f"patterns in {field} that can be matched",
            found=str(error),
            change="Name the modules in it instead, one by one",
        ) from error
    values = list(pattern.values())
    return {
        module: default if place is None else values[place] for module, place in zip(own, places, strict=True)
    }


def _require_base(path: Path, name: str, info: TensorInfo, start: int, base: Base) -> None:
    """What is saved beside A and B is needless if it is the base model's, and not served otherwise."""
    candidates = same_module(_AROUND.sub("", unwrapped(name)), base.names)
    place = (info.dtype, info.shape, path, start + info.data_offsets[0])
    if len(candidates) == 1 and base.equals(candidates[0], *place):
        return
    raise AdapterError(
        path,
        expected="whole weights as the base model has them, or none",
        found=f"{name} of shape {list(info.shape)}, which differs",
        change="Only LoRA on linear layers is served: train without modules_to_save, without a bias, and "
        "without another vocabulary",
    )


def _plain_config(scaling: _Scaling, modules: list[str]) -> bytes:
    scale = 1.0 if scaling.scale is None else scaling.scale
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": scaling.rank,
        "lora_alpha": scale * scaling.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": modules,
        "inference_mode": True,
    }
    return msgspec.json.format(msgspec.json.encode(fields), indent=2)
