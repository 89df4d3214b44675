"""The pairs A and B of an adapter: types, shapes and values, against the base model's linear modules."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vllm_mega.bank.tensors import TensorInfo, all_zero, magnitude, read_values
from vllm_mega.errors import AdapterError

Shapes = Mapping[str, tuple[int, int]]
"""(O, I) of every linear module of the base model, by its path."""

_DTYPES = ("BF16", "F16", "F32")
LARGEST = float(np.finfo(np.float32).max)
"""Of all numbers that an adapter may be served in."""


class Pair(NamedTuple):
    """The names of a module's tensors in the file."""

    a: str
    """[R, I]"""
    b: str
    """[O, R]"""


Pairs = Mapping[str, Pair]
"""By module of the base model."""


def unknown_module(path: Path, module: str, shapes: Shapes) -> AdapterError:
    """Why tensors for `module` are refused."""
    near = difflib.get_close_matches(module, shapes, n=1)
    leaf = module.rpartition(".")[2]
    beside = leaf == "lm_head" or leaf.startswith("embed")
    return AdapterError(
        path,
        expected="linear modules of the base model" + (f", such as {near[0]}" if near else ""),
        found=f"tensors for {module}",
        change=f"Heads and embeddings are not served with adapters: train without {leaf} in target_modules"
        if beside
        else "The adapter belongs to another base model, or to a module that is not served: an engine serves "
        "--lora-target-modules, or what the bank's adapters had when it was started, so start it again",
    )


def check_shapes(
    path: Path, pairs: Pairs, infos: Mapping[str, TensorInfo], shapes: Shapes, ranks: Mapping[str, int]
) -> None:
    """Refuse tensors of another type or shape than modules and ranks ask for.

    Raises:
        AdapterError: names the tensor, and the axis.
    """
    for module, pair in pairs.items():
        if module not in shapes:
            raise unknown_module(path, module, shapes)
        (out, into), rank = shapes[module], ranks[module]
        for name, axes, wanted in (
            (pair.a, ("rank r", "input features"), (rank, into)),
            (pair.b, ("output features", "rank r"), (out, rank)),
        ):
            info = infos[name]
            if info.dtype not in _DTYPES:
                raise AdapterError(
                    path,
                    expected=f"{name} as one of {', '.join(_DTYPES)}",
                    found=info.dtype,
                    change="Export the adapter in one of these types",
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
            change="Shards of DeepSpeed or FSDP must be gathered before the adapter is saved",
        )
    for axis, (size, expected) in enumerate(zip(shape, wanted, strict=True)):
        if size != expected:
            raise AdapterError(
                path,
                expected=f"{name} of shape {list(wanted)}",
                found=f"{list(shape)}: axis {axis} ({axes[axis]}) is {size}, not {expected}",
                change="It does not belong to its configuration: export both again"
                if axes[axis] == "rank r"
                else "The adapter belongs to another base model",
            )


def checked_values(
    path: Path,
    infos: Mapping[str, TensorInfo],
    start: int,
    pairs: Pairs,
    limits: tuple[float, float] = (LARGEST, LARGEST),
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Name and flat values (see `read_values`) of every tensor of `pairs`.

    `limits`: the largest absolute values that A and B may have.

    Raises:
        AdapterError: a value that is not finite or too large, or, after the last one, an adapter without
            effect.
    """
    zero: set[str] = set()
    most = {name: limit for pair in pairs.values() for name, limit in zip(pair, limits, strict=True)}
    for name, values in read_values(path, {name: infos[name] for name in most}, start):
        _check_size(path, name, magnitude(values), most[name])
        if all_zero(values):
            zero.add(name)
        yield name, values
    if all(zero.intersection(pair) for pair in pairs.values()):
        raise AdapterError(
            path,
            expected="an adapter that changes the model",
            found="A or B all zero in every module",
            change="It was never trained, or saved too early: train it again",
        )


def _check_size(path: Path, name: str, found: float, most: float) -> None:
    if not math.isfinite(found):
        raise AdapterError(
            path, expected="finite values", found=f"NaN or infinity in {name}", change="Train it again"
        )
    if found > most:
        raise AdapterError(
            path,
            expected=f"values of at most {most:.6g} in {name}, so that they are finite where they are served",
            found=f"{found:.6g}",
            change="Serve it with --dtype bfloat16 or float32, or train it again",
        )


def exhaust(values: Iterable[object]) -> None:
    """Ask for all of `values`, and keep none."""
    for _ in values:
        pass
