"""The tensors of a base model, to compare others with: without torch, and a piece at a time."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_mega.models.architectures import EMBEDDINGS, HEAD
from vllm_mega.models.checkpoint import Tensor, linear_shapes, model_config, tensors
from vllm_mega.models.functional import is_tied

_KINDS: dict[str, Any] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_PIECE = 1 << 22
"""Numbers that are compared at once."""


class BaseWeights:
    """The weights in the folder of a checkpoint."""

    def __init__(self, path: Path) -> None:
        """Nothing is read yet."""
        self._path = path

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(O, I) of every linear module; see `linear_shapes`."""
        return linear_shapes(self._path)

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of all tensors of the model."""
        return frozenset(self._tensors)

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        by_name = tensors(self._path)
        if is_tied(model_config(self._path)) is not False and not any(n.endswith(HEAD) for n in by_name):
            embeddings = [tensor for name, tensor in by_name.items() if name.endswith(EMBEDDINGS)]
            by_name |= dict(zip((HEAD,), embeddings, strict=False))
        return by_name

    def equals(self, name: str, dtype: str, shape: tuple[int, ...], file: Path, start: int) -> bool:
        """Whether the tensor `name` has the values that lie in `file`, as far as their type can tell.

        A model that was loaded as float16 or bfloat16 has rounded them, whatever it was saved as.

        Args:
            name: one of `names`.
            dtype: of the other tensor, as safetensors calls it.
            shape: of the other tensor.
            file: where it lies ...
            start: ... from this byte on.
        """
        own = self._tensors[name]
        if own.shape != shape or not {own.dtype, dtype} <= _KINDS.keys():
            return False
        mine, theirs = _mapped(own), _mapped(own._replace(file=file, dtype=dtype, start=start))
        kinds = {dtype, "F16", "BF16"}
        for first in range(0, mine.size, _PIECE):
            values = _floats(mine[first : first + _PIECE])
            wanted = _floats(theirs[first : first + _PIECE])
            # Those that explain every piece so far.
            kinds = {kind for kind in kinds if np.array_equal(_rounded(values, kind), wanted)}
            if not kinds:
                return False
        return True


def _mapped(tensor: Tensor) -> npt.NDArray[Any]:
    kind = _KINDS[tensor.dtype]
    return np.memmap(tensor.file, kind, "r", tensor.start, (math.prod(tensor.shape),))


def _floats(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if values.dtype == np.uint16:  # the bits of bfloat16
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _rounded(values: npt.NDArray[np.float32], kind: str) -> npt.NDArray[np.float32]:
    """`values` as the type `kind` has them; ties go to the even one."""
    if kind == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if kind == "BF16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)
    return values
