"""Whether a fused kernel may stand in for a module: asked of what the module itself computes.

The inputs are those that the module has on real text in an untouched model, the weights are its own, and
every element is compared, forth and back. A tolerance taken from the largest element lets wrong ones pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ROUNDINGS = 2.0
"""A kernel may differ by so many units in the last place of its type: both round intermediate results."""
CANCELLED = 32.0
"""Sums are float32 in another order: so many of its units of the largest element of a row may be left."""
TOKENS = 64
"""Of the text, for every module."""


class Seen(NamedTuple):
    """What a module was called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@torch.no_grad()
def inputs_of(model: nn.Module, ids: Tensor, names: Iterable[str]) -> dict[str, Seen]:
    """What the modules `names` of `model` are called with while it reads `ids`, int64 [T]; by name."""
    seen: dict[str, Seen] = {}
    handles = []
    for name in names:

        def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
            seen[name] = Seen(args, kwargs)

        handles.append(model.get_submodule(name).register_forward_pre_hook(keep, with_kwargs=True))
    try:
        model(input_ids=ids[None, :TOKENS], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def exact_copy(module: nn.Module) -> nn.Module:
    """`module` in a type in which its rounding does not show; of one without weights, itself."""
    weight = next(module.parameters(), None)
    return module if weight is None else copy.deepcopy(module).to(_exact(weight.dtype))


def agrees(fast: Callable[..., Any], plain: Callable[..., Any], *inputs: Tensor) -> bool:
    """Whether `fast` of `inputs`, and its gradient for each of them, is that of `plain` but for rounding.

    Args:
        fast: is given `inputs` as they are.
        plain: is given them in a wider type; both return a tensor or several.
        inputs: floating point, all of one type.
    """
    dtype = inputs[0].dtype
    ours = _results(fast, [x.detach() for x in inputs])
    exact = _results(plain, [x.detach().to(_exact(dtype)) for x in inputs])
    return all(map(_close, ours, exact)) and len(ours) == len(exact)


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float32 else torch.float32


def _results(function: Callable[..., Any], inputs: list[Tensor]) -> list[Tensor]:
    """Outputs, then gradients of the inputs for some gradient of the outputs, the same for every function."""
    for x in inputs:
        x.requires_grad_()
    with torch.enable_grad():
        out = function(*inputs)
    outputs = [out] if isinstance(out, Tensor) else list(out)
    random = torch.Generator().manual_seed(0)
    # Numbers that every type holds exactly.
    pulls = [torch.randint(-8, 9, y.shape, generator=random).to(y.dtype).to(y.device) for y in outputs]
    return [y.detach() for y in outputs] + list(torch.autograd.grad(outputs, inputs, pulls))


def _close(found: Tensor, exact: Tensor) -> bool:
    if found.shape != exact.shape:
        return False
    size = exact.abs()
    limit = ROUNDINGS * torch.finfo(found.dtype).eps * size
    limit += CANCELLED * torch.finfo(torch.float32).eps * size.amax(-1, keepdim=True)
    return bool(((found.to(exact.dtype) - exact).abs() <= limit).all())
