"""Where the time of training goes, by kinds of operation."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

KINDS = ("matrix products", "attention", "element-wise", "optimizer", "other")

_PRODUCTS = {
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "linear",
    "matmul",
    "mkldnn_linear",
    "_mkldnn_linear",
    "mv",
    "addmv",
}
_ATTENTION = ("scaled_dot_product", "softmax", "_Attend", "flash_attention", "index_add")
_FUSED = ("_RMSNorm", "_SwiGLU", "_Rotary")
"""Kernels of the trainer's own: no operations of torch happen within."""
_ELEMENT_WISE = {
    "add", "sub", "mul", "div", "neg", "pow", "rsqrt", "mean", "sum", "silu", "silu_backward", "sigmoid",
    "exp", "log", "copy", "fill", "zero", "cat", "where", "clone", "sin", "cos", "sqrt", "clamp",
    "masked_fill", "index_select", "index", "index_put", "gather", "_log_softmax",
    "_log_softmax_backward_data",
    "nll_loss_forward", "nll_loss_backward", "addcmul", "addcdiv", "lerp", "eq", "gt", "lt", "ge", "le",
    "rms_norm", "_fused_rms_norm", "_fused_rms_norm_backward", "logsumexp", "amax", "maximum", "embedding",
}  # fmt: skip


def kind(name: str, parents: Iterable[str] = ()) -> str:
    """The kind of the operation `name` that was called within `parents`, the nearest first."""
    for each in (name, *parents):
        if any(part in each for part in _ATTENTION) and "log_softmax" not in each:
            return "attention"
        if "Optimizer" in each or "adam" in each.lower() or "foreach" in each:
            return "optimizer"
    if any(part in name for part in _FUSED):
        return "element-wise"
    bare = name.removeprefix("aten::").removeprefix("mkldnn::").rstrip("_")
    if bare in _PRODUCTS:
        return "matrix products"
    return "element-wise" if bare in _ELEMENT_WISE else "other"


def account(work: Callable[[], object]) -> tuple[dict[str, float], dict[str, float]]:
    """Do `work` under torch's profiler.

    Returns:
        Percentages of the time of all operations by kind, and of the ten longest operations by name.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    by_kind, by_name = dict.fromkeys(KINDS, 0.0), dict[str, float]()
    for event in profiler.events() or ():
        own = event.self_cpu_time_total
        by_kind[kind(event.name, _parents(event))] += own
        by_name[event.name] = by_name.get(event.name, 0.0) + own
    longest = sorted(by_name.items(), key=lambda item: -item[1])[:10]
    return _percent(by_kind, by_name), _percent(dict(longest), by_name)


def _parents(event: torch.autograd.profiler_util.FunctionEvent) -> Iterable[str]:
    parent = event.cpu_parent
    while parent is not None:
        yield parent.name
        parent = parent.cpu_parent


def _percent(part: dict[str, float], whole: dict[str, float]) -> dict[str, float]:
    total = sum(whole.values()) or 1.0
    return {name: round(100 * value / total, 1) for name, value in part.items()}
