"""Fused kernels in a loaded model: norms, the SiLU-gated product and rotary embeddings, forth and back.

`install` looks for modules by what they look like, and lets a kernel stand in only where it computes what the
module computes (see `fused_check`): with the module's own weights, on what it is given for real text, in its
own type. Otherwise the module stays as it is. Whatever the kernels cannot take at run time (another device,
another type) goes the model's own way too. Objects of the given model are changed, never classes or modules.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vllm_mega.models.architectures import GATED_MLP, NORM, NORM_EPSILONS, ROTARY
from vllm_mega.training.compute import fused_kernels as kernels
from vllm_mega.training.compute.fused_check import Seen, agrees, exact_copy, inputs_of

Forward = Callable[..., Any]
Maker = Callable[[Any, Any, Seen], Forward | None]
"""Of a module, the same module untouched and its inputs: what it can compute instead; None: it stays."""


class _RMSNorm(torch.autograd.Function):
    """x [..., D], scale float32 [D] -> [..., D]; the scale is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        y, rstd = kernels.rms_norm(x, scale, eps)
        ctx.save_for_backward(x, scale, rstd)
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


def install(model: nn.Module, untouched: nn.Module, ids: Tensor) -> ExitStack:
    """Let `model` compute with the kernels until the result is closed (or left, as a context).

    Args:
        model: before any tokens are assigned to adapters, its weights frozen.
        untouched: the same model, in which nothing was changed: what the kernels are compared with.
        ids: int64 [T], some real text.
    """
    undo = ExitStack()
    makers = {name: maker for name, module in model.named_modules() if (maker := _maker(module))}
    for name, seen in inputs_of(untouched, ids, makers).items():
        module = model.get_submodule(name)
        forward = makers[name](module, untouched.get_submodule(name), seen)
        if forward is not None:
            module.forward = forward
            undo.callback(delattr, module, "forward")
    return undo


def _maker(module: nn.Module) -> Maker | None:
    """How to let a kernel stand in for `module`, by what it looks like; None: there is no way."""
    weight = next(module.parameters(), None)
    if "forward" in vars(module) or weight is None or not kernels.usable(weight):
        return None  # somebody's patch, perhaps ours, or nothing for the kernels
    if type(module).__name__.endswith(NORM):
        return _norm
    if all(hasattr(module, name) for name in GATED_MLP):
        return _mlp
    if ROTARY in getattr(getattr(type(module).forward, "__code__", None), "co_names", ()):
        return _attention
    return None


def _norm(module: Any, untouched: Any, seen: Seen) -> Forward | None:
    weight = getattr(module, "weight", None)
    eps = next((getattr(module, name) for name in NORM_EPSILONS if hasattr(module, name)), None)
    if not isinstance(weight, Tensor) or weight.requires_grad or not isinstance(eps, float):
        return None
    exact = exact_copy(untouched)
    for scale in (weight.detach().float(), 1.0 + weight.detach().float()):  # as in Llama, as in Gemma

        def fast(x: Tensor, scale: Tensor = scale) -> Tensor:
            y: Tensor = _RMSNorm.apply(x, scale, eps)
            return y

        if agrees(fast, exact, seen.args[0]):
            return _where_usable(fast, module.forward)
    return None


def _where_usable(fast: Forward, original: Forward) -> Forward:
    def forward(hidden_states: Tensor) -> Tensor:
        y: Tensor = (fast if kernels.usable(hidden_states) else original)(hidden_states)
        return y

    return forward


def _mlp(module: Any, untouched: Any, seen: Seen) -> Forward | None:
    (x,) = seen.args
    with torch.no_grad():
        gate_layer, up_layer, down_layer, own_act = _mlp_parts(untouched)
        gate, up = gate_layer(x), up_layer(x)
        plain = torch.equal(down_layer(own_act(gate) * up), untouched(x))
    act = exact_copy(own_act)
    if not plain or not agrees(_SwiGLU.apply, lambda gate, up: act(gate) * up, gate, up):
        return None

    def forward(x: Tensor) -> Tensor:
        gate_layer, up_layer, down_layer, module_act = _mlp_parts(module)  # now: LoRA may have replaced them
        gate, up = gate_layer(x), up_layer(x)
        product = _SwiGLU.apply(gate, up) if kernels.usable(gate, up) else module_act(gate) * up
        y: Tensor = down_layer(product)
        return y

    return forward


def _mlp_parts(module: nn.Module) -> tuple[Any, ...]:
    return tuple(getattr(module, name) for name in GATED_MLP)


def _attention(module: Any, untouched: Any, seen: Seen) -> Forward | None:
    """The module's own code, in which another function goes by the name of the rotary embedding."""
    code = type(module).forward
    original = code.__globals__[ROTARY]
    verdicts: list[bool] = []

    def compared(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *args: Any, **kwargs: Any) -> Any:
        plain = partial(_exactly, original, cos, sin, *args, **kwargs)
        verdicts.append(
            not args and not kwargs and _fits(q, cos, sin) and agrees(partial(_turned, cos, sin), plain, q, k)
        )
        return original(q, k, cos, sin, *args, **kwargs)

    with torch.no_grad():
        _rebound(code, compared)(untouched, *seen.args, **seen.kwargs)
    if not verdicts or not all(verdicts):
        return None

    def fused(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
        if not _fits(q, cos, sin) or not kernels.usable(q, k, cos, sin):
            return original(q, k, cos, sin)
        return _turned(cos, sin, q, k)

    return MethodType(_rebound(code, fused), module)


def _rebound(code: Any, rotary: Callable[..., Any]) -> FunctionType:
    """The function `code`, for which the rotary embedding is `rotary`; the module that it is from stays."""
    names = {**code.__globals__, ROTARY: rotary}
    copied = FunctionType(code.__code__, names, code.__name__, code.__defaults__, code.__closure__)
    copied.__kwdefaults__ = code.__kwdefaults__
    return copied


def _fits(q: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether these are one row's: q [1, H, T, d], cos and sin [1, T, d]."""
    return q.dim() == 4 and len(q) == 1 and cos.shape == sin.shape == (1, q.shape[2], q.shape[3])


def _turned(cos: Tensor, sin: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    turns = cos[0].contiguous(), sin[0].contiguous()
    # [1, H, T, d] is a view of what the projection wrote, [T, H, d]; so is what comes out.
    a, b = (_Rotary.apply(x.squeeze(0).transpose(0, 1), *turns).transpose(0, 1)[None] for x in (q, k))
    return a, b


def _exactly(rotary: Callable[..., Any], cos: Tensor, sin: Tensor, q: Tensor, k: Tensor) -> Any:
    return rotary(q, k, cos.to(q.dtype), sin.to(q.dtype))
