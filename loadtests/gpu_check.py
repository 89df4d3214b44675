"""The part `kernels` of `loadtests.gpu`: every kernel against the definition, at shapes of real models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from loadtests.gpu_options import Options
from loadtests.gpu_ours import OurStep, table
from loadtests.gpu_report import FAIL, LEFT_OUT, PASS, Line
from loadtests.gpu_shapes import Adapters, Routing, Rows, adapters_of, routing, rows_of
from loadtests.gpu_time import captured
from loadtests.roofline_data import MODELS, Linear, Load
from vllm_mega.kernels import reference

RANKS = (16, 4, 1, 16, 8, 13, 64, 16)
"""Of the adapters in slots."""
PADDED = 7
"""Rows behind those of the step, as CUDA graphs have them."""
SAMPLE = 40
"""Rows that the definition is asked for: it takes one row at a time."""
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}
"""Of the result, by its magnitude ..."""
SUMS = {torch.bfloat16: 1e-4, torch.float16: 1e-4, torch.float32: 2e-5}
"""... and what sums in float32 may add, by the largest result."""


class Step(NamedTuple):
    """A kind of step."""

    name: str
    routing: Routing


def mixed(tokens: int, width: int, adapters: int = len(RANKS)) -> Routing:
    """Prompts of unlike lengths beside requests that decode, some without adapters, some with holes. Pure."""
    draw = np.random.default_rng(1)
    lengths = [1, 1, tokens // 3, 1, tokens // 4, 1]
    lengths.append(tokens - sum(lengths))
    slot = np.stack([draw.permutation(adapters)[:width] for _ in lengths])
    slot[1], slot[4] = -1, np.where(np.arange(width) % 2, -1, slot[4])
    weight = draw.integers(-64, 65, slot.shape) / 64
    weight[3] = 0
    return np.repeat(slot, lengths, 0).astype(np.int32), np.repeat(weight, lengths, 0).astype(np.float32)


def steps(quick: bool) -> list[Step]:
    """Those that are checked."""
    loads = [(Load("", 1, 1), 1), (Load("", 16, 1), 4), (Load("", 64, 1), 8)]
    loads += [] if quick else [(Load("", 1, 1), 8), (Load("", 256, 1), 4), (Load("", 4, 2048), 4)]
    found = [
        Step(f"{load.requests} x {load.each} tokens, K={width}", routing(load, len(RANKS), width))
        for load, width in loads
    ]
    return [*found, Step("prompts beside decode, K=3", mixed(300, 3))]


def of_bound(out: torch.Tensor, want: torch.Tensor) -> float:
    """The largest error by what is allowed: 1 is just right. NaN counts as infinite.

    Args:
        out: what a kernel gave.
        want: what the definition says, float32.
    """
    allowed = ROUNDING[out.dtype] * want.abs() + SUMS[out.dtype] * want.abs().max()
    share = ((out.float() - want).abs() / allowed).max().nan_to_num(torch.inf)
    return float(share)


def sampled(tokens: int) -> NDArray[np.int64]:
    """Rows of a step that the definition is asked for: first and last, and evenly between."""
    return np.unique(np.linspace(0, tokens - 1, min(tokens, SAMPLE)).astype(np.int64))


def wanted(one: Adapters, rows: Rows, step: Routing) -> torch.Tensor:
    """What the definition says of `rows`, [T, O] float32; slots that count only."""
    slot, weight = (torch.from_numpy(part) for part in step)
    parts = zip(torch.split(rows.y, list(one.linear.outs), dim=1), one.a, one.b, strict=True)
    return torch.cat(
        [
            reference.add_mixture(y, rows.x, a.nan_to_num(), b.nan_to_num().transpose(1, 2), slot, weight)
            for y, a, b in parts
        ],
        dim=1,
    )


def worst(out: torch.Tensor, one: Adapters, rows: Rows, step: Routing) -> float:
    """The largest error by what is allowed, infinite where a row that is not the step's was touched.

    Args:
        out: what the kernels made of y, the step's rows and `PADDED` more.
        one: the adapters.
        rows: before.
        step: slot and weight.
    """
    slot, weight = step
    chosen = sampled(len(slot))
    few = Rows(rows.x[chosen], rows.y[chosen])
    error = of_bound(out[chosen], wanted(one, few, (slot[chosen], weight[chosen])))
    still = np.ones(len(out), dtype=bool)
    still[: len(slot)] = ~((slot >= 0) & (weight != 0)).any(axis=1)
    same = torch.equal(out[still].view(torch.uint8), rows.y[still].view(torch.uint8))
    return error if same else torch.inf


def check(linear: Linear, step: Step, dtype: torch.dtype, device: str) -> float:
    """One call of our kernels; see `worst`."""
    one = adapters_of(linear, RANKS, dtype, device)
    tokens = len(step.routing[0]) + PADDED
    rows = rows_of(linear, tokens, dtype, device)
    ours = OurStep([one], [table(one)], tokens, step.routing[0].shape[1])
    ours.plan(step.routing)
    out = rows.y.clone()
    ours([Rows(rows.x, out)])
    return worst(out, one, rows, step.routing)


def check_graph(linear: Linear) -> float:
    """A CUDA graph of one step, replayed with others, of other widths and numbers of tokens; see `worst`."""
    one = adapters_of(linear, RANKS, torch.bfloat16, "cuda")
    rows = rows_of(linear, 64 + PADDED, torch.bfloat16, "cuda")
    ours, out = OurStep([one], [table(one)], len(rows.x), 8), rows.y.clone()
    ours.plan(routing(Load("", 64, 1), len(RANKS), 4))
    replay = captured(lambda: ours([Rows(rows.x, out)]))
    errors = []
    for step in _other_steps():
        ours.plan(step)
        out.copy_(rows.y)
        replay()
        errors.append(worst(out, one, rows, step))
    return max(errors)


def _other_steps() -> list[Routing]:
    none = mixed(60, 2)
    few, all_of_one = Load("", 5, 1), Load("", 64, 1)
    nothing = np.full_like(none[0], -1), none[1]
    return [routing(few, len(RANKS), 8), mixed(60, 3), nothing, routing(all_of_one, len(RANKS), 1)]


def run(options: Options) -> Iterator[Line]:
    """Our kernels against the definition, a line for each layer and step."""
    for name, linear, dtype in _linears(options.quick):
        for step in steps(options.quick):
            yield _line(f"{name}, {step.name}", partial(check, linear, step, dtype, options.device), options)
    qkv = MODELS["llama-3.1-8b"].linears()[0]
    yield _line("qkv, a CUDA graph replayed with other steps", partial(check_graph, qkv), options)


def _linears(quick: bool) -> Iterator[tuple[str, Linear, torch.dtype]]:
    for model in ("llama-3.1-8b",) if quick else ("llama-3.1-8b", "qwen2.5-7b", "smollm2-135m"):
        for one in MODELS[model].linears():
            yield f"{model} {one.name} bfloat16", one, torch.bfloat16
    for dtype in () if quick else (torch.float16, torch.float32):
        one = MODELS["llama-3.1-8b"].linears()[0]
        yield f"llama-3.1-8b {one.name} {str(dtype).removeprefix('torch.')}", one, dtype


def _line(name: str, error: Callable[[], float], options: Options) -> Line:
    if options.clock.over:
        return Line("kernels", name, LEFT_OUT, "the time was over (--seconds)")
    try:
        share = error()
    except Exception as failure:  # a kernel may fail in any way, and the others are still of interest
        return Line("kernels", name, FAIL, f"{type(failure).__name__}: {failure}"[:300])
    verdict = PASS if share <= 1 else FAIL
    return Line(
        "kernels", name, verdict, f"largest error {share:.2f} of what is allowed", {"of_bound": share}
    )
