"""Fused kernels in a loaded model: norms, the SiLU-gated product and rotary embeddings, forth and back.

`install` looks for modules by what they look like and then by what they compute: a module whose output on
random numbers is not that of the kernel stays as it is. Whatever the kernels cannot take at run time
(another device, another type, weights that are trained) goes the model's own way too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import wraps
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vllm_mega.training import fused_kernels as kernels

Forward = Callable[[Tensor], Tensor]
_ROTARY = "apply_rotary_pos_emb"


class _RMSNorm(torch.autograd.Function):
    """x [..., D], weight [D] -> [..., D]; the weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        y, rstd = kernels.rms_norm(x, weight, eps)
        ctx.save_for_backward(x, weight, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return kernels.rms_norm_grad(grads[0].contiguous(), *ctx.saved_tensors), None, None


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up, of one shape."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return kernels.swiglu(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return kernels.swiglu_grad(grads[0].contiguous(), *ctx.saved_tensors)


class _Rotary(torch.autograd.Function):
    """x [T, H, d], cos and sin [T, d] -> [T, H, d]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return kernels.rotary(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return kernels.rotary(grads[0], *ctx.saved_tensors, inverse=True), None, None


def install(model: nn.Module) -> ExitStack:
    """Let `model` compute with the kernels until the result is closed (or left, as a context).

    Before any tokens are assigned to adapters: modules are tried on a few random tokens.
    """
    undo = ExitStack()
    for module in model.modules():
        forward = _forward_of(module)
        if forward is not None:
            module.forward = forward  # of this object: its class stays what it is
            undo.callback(delattr, module, "forward")
    for code in _rotary_modules(model):
        original = getattr(code, _ROTARY)
        setattr(code, _ROTARY, _rotary(original))
        undo.callback(setattr, code, _ROTARY, original)
    return undo


def _forward_of(module: nn.Module) -> Forward | None:
    """What `module` can compute instead of its own forward; None: it stays."""
    if "forward" in vars(module):  # somebody's patch, perhaps ours
        return None
    fused: Forward | None = None
    if type(module).__name__.endswith("RMSNorm"):
        fused = _norm(module)
    elif all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        fused = _mlp(module)
    weight = next(module.parameters(), None)
    if fused is None or weight is None or not kernels.usable(weight.detach()):
        return None
    return fused if _same(module, fused, weight) else None


def _norm(module: Any) -> Forward | None:
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, Tensor) or not isinstance(eps, float):
        return None
    original: Forward = module.forward

    def forward(hidden_states: Tensor) -> Tensor:
        if module.weight.requires_grad or not kernels.usable(hidden_states, module.weight):
            return original(hidden_states)
        y: Tensor = _RMSNorm.apply(hidden_states, module.weight, eps)
        return y

    return forward


def _mlp(module: Any) -> Forward:
    def forward(x: Tensor) -> Tensor:
        gate, up = module.gate_proj(x), module.up_proj(x)
        product = _SwiGLU.apply(gate, up) if kernels.usable(gate, up) else module.act_fn(gate) * up
        y: Tensor = module.down_proj(product)
        return y

    return forward


@torch.no_grad()
def _same(module: nn.Module, fused: Forward, weight: Tensor) -> bool:
    """Whether both compute the same of random numbers, but for rounding."""
    first = next((m.weight for m in module.modules() if isinstance(m, nn.Linear)), weight)
    x = torch.randn(1, 3, first.shape[-1], generator=torch.Generator().manual_seed(0)).to(first.dtype)
    trained = weight.requires_grad
    weight.requires_grad = False
    try:
        return _close(fused(x), module(x))
    except (RuntimeError, TypeError, ValueError):  # a module of another make: it wants other arguments
        return False
    finally:
        weight.requires_grad = trained


def _close(found: Tensor, expected: Tensor) -> bool:
    tolerance = 4 * torch.finfo(expected.dtype).eps * float(expected.abs().max())
    return found.shape == expected.shape and bool(((found - expected).abs() <= tolerance).all())


def _rotary_modules(model: nn.Module) -> Iterator[ModuleType]:
    """The modules of Python code whose rotary embedding the kernel can stand for."""
    for name in sorted({type(module).__module__ for module in model.modules()}):
        code = sys.modules[name]
        original = getattr(code, _ROTARY, None)
        if original is None or hasattr(original, "fused") or not kernels.usable(torch.empty(0)):
            continue
        q, k, cos, sin = (torch.randn(1, n, 3, 8) for n in (4, 2, 1, 1))
        half = (cos[0, ..., :4].repeat(1, 1, 2), sin[0, ..., :4].repeat(1, 1, 2))
        try:
            pairs = zip(_rotary(original)(q, k, *half), original(q, k, *half), strict=True)
            if all(_close(a, b) for a, b in pairs):
                yield code
        except (RuntimeError, TypeError, ValueError):  # another function of this name
            continue


def _rotary(original: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    @wraps(original)
    def fused(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        known = q.dim() == 4 and len(q) == 1 and cos.shape == sin.shape == (1, q.shape[2], q.shape[3])
        if args or kwargs or not known or cos.requires_grad or not kernels.usable(q, k, cos, sin):
            return original(q, k, cos, sin, *args, **kwargs)
        turns = cos[0].contiguous(), sin[0].contiguous()
        # [1, H, T, d] is a view of what the projection wrote, [T, H, d]; so is what comes out.
        a, b = (_Rotary.apply(x.squeeze(0).transpose(0, 1), *turns).transpose(0, 1)[None] for x in (q, k))
        return a, b

    fused.fused = True  # type: ignore[attr-defined]
    return fused
