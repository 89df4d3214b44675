"""The kernels of fused.cpp on tensors: float32 or bfloat16, on the CPU, all of one type.

Whoever calls asks `usable` first. Nothing here knows of gradients: fused.py and attention.py do.
"""

from __future__ import annotations

import ctypes
import logging
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from vllm_mega.errors import KernelError
from vllm_mega.kernels import native

SOURCE = Path(__file__).with_name("fused.cpp")
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_LOG = logging.getLogger(__name__)


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels can take these tensors; the library is compiled now if need be."""
    dtype = tensors[0].dtype
    alike = all(x.device.type == "cpu" and x.dtype == dtype for x in tensors)
    return alike and dtype in _NAMES and _library() is not None


@lru_cache
def _library() -> ctypes.CDLL | None:
    """None: not on this machine, which is said once."""
    try:
        return native.loaded(SOURCE)
    except KernelError as error:
        _LOG.warning("Training goes on without its fused kernels, and takes longer: %s", error)
        return None


def _call(name: str, like: Tensor, *arguments: Tensor | int | float) -> None:
    function = getattr(_library(), f"mega_{name}_{_NAMES[like.dtype]}")
    function(*map(_as_c, arguments))


def _as_c(value: Tensor | int | float) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_double:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_int64(value)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """[..., D], weight float32 [D] -> x * rstd * weight, and rstd [...] in float32. Both contiguous."""
    y, rstd = torch.empty_like(x), x.new_empty(x.shape[:-1], dtype=torch.float32)
    _call("rms_norm", x, x, weight, y, rstd, rstd.numel(), x.shape[-1], eps)
    return y, rstd


def rms_norm_grad(dy: Tensor, x: Tensor, weight: Tensor, rstd: Tensor) -> Tensor:
    """The gradient of `x`; all contiguous."""
    dx = torch.empty_like(x)
    _call("rms_norm_grad", x, dy, x, weight, rstd, dx, rstd.numel(), x.shape[-1])
    return dx


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, both contiguous and of one shape."""
    y = torch.empty_like(gate)
    _call("swiglu", gate, gate, up, y, gate.numel())
    return y


def swiglu_grad(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `gate` and `up`; all contiguous."""
    dgate, dup = torch.empty_like(gate), torch.empty_like(up)
    _call("swiglu_grad", gate, dy, gate, up, dgate, dup, gate.numel())
    return dgate, dup


def rotary(x: Tensor, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> Tensor:
    """Heads [T, H, d] turned by cos and sin, contiguous [T, d] -> [T, H, d]. `inverse`: the gradient of that.

    The halves of a head are the two coordinates, as in Llama.
    """
    x = rows(x)
    y = torch.empty(x.shape, dtype=x.dtype)
    _call("rotary", x, x, x.stride(0), x.stride(1), cos, sin, y, *x.shape, int(inverse))
    return y


def softmax_(scores: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """softmax(scores * scaling + mask) in place: scores [G, E, X * Q, S], mask float32 [E, Q, S]."""
    groups, segments, width, keys = scores.shape
    count = groups * segments * width
    _call("softmax", scores, scores, mask, count, segments, width, mask.shape[1], keys, float(scaling))
    return scores


def softmax_grad_(dp: Tensor, p: Tensor, scaling: float) -> Tensor:
    """The gradient of the scores from that of the probabilities `p`, in place of it: [..., S]."""
    keys = p.shape[-1]
    _call("softmax_grad", dp, dp, p, p.numel() // keys, keys, float(scaling))
    return dp


def gather(x: Tensor, index: Tensor, groups: int, segments: int) -> Tensor:
    """[T, H, d], index [E * W] -> [G, E, H/G * W, d]; 0 where an index is negative."""
    x = rows(x)
    each, width, size = x.shape[1] // groups, len(index) // segments, x.shape[2]
    block = torch.empty(groups, segments, each * width, size, dtype=x.dtype)
    _call("gather", x, x, x.stride(0), x.stride(1), index, block, groups, segments, each, width, size)
    return block


def scatter_(out: Tensor, block: Tensor, index: Tensor) -> None:
    """What `gather` took goes to where it was, nothing where an index is negative: out [T, H, d]."""
    groups, segments, _, size = block.shape
    each, width = out.shape[1] // groups, len(index) // segments
    _call("scatter", block, block, index, out, groups, segments, each, width, size)


def scatter_add_(out: Tensor, block: Tensor, index: Tensor) -> None:
    """Add block [G, E, W, d] to `out`, float32 [T, G, d], at index [E * W], of which none is negative."""
    groups, size = block.shape[0], block.shape[-1]
    _call("scatter_add", block, block, index, out, out.shape[0], groups, len(index), size)


def rows(x: Tensor) -> Tensor:
    """`x` with its last axis contiguous; a copy only where it must be."""
    return x if x.stride(-1) == 1 else x.contiguous()
