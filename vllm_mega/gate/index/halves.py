"""Keys in two halves of 16 bits: the upper is the key in bfloat16, with the lower it is exact again. Pure.

A scan reads the upper halves alone, half the bytes, and what it finds is compared exactly; so nothing is
kept twice.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vllm_mega.gate.vectors import Vectors

Half = npt.NDArray[np.int16]


def split(vectors: Vectors, upper: Half, lower: Half) -> None:
    """Write finite float32 [n, D] as its upper halves, rounded to the nearest, and its lower ones, signed."""
    halves = np.ascontiguousarray(vectors, "<f4").view("<i2").reshape(*vectors.shape, 2)
    np.copyto(lower, halves[..., 0])
    np.add(halves[..., 1], lower < 0, out=upper)


def join(upper: Half, lower: Half) -> Vectors:
    """What `split` was given: float32 [n, D]."""
    return ((upper.astype(np.int32) << 16) + lower).view(np.float32)
