"""What a step moves and computes: the base model, our kernels, vLLM's own LoRA. Pure arithmetic.

A step is a list of launches, each with what it cannot do without (its floor) and what it does beyond: bytes
that come again, out of caches if they fit, and products with rows and ranks that only fill a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from loadtests.roofline_data import Gpu, Linear, Load, Model
from vllm_mega.kernels.triton import splits, tiles
from vllm_mega.kernels.triton_plan import BLOCK, UNIT

WIDTH = 2
"""Bytes of a number: bfloat16 and float16."""
LAUNCH = 3e-6
"""Seconds of a launch in a CUDA graph that has next to nothing to do, behind one that it waits for."""
OF_BANDWIDTH, OF_FLOPS = 0.8, 0.5
"""Parts of the data sheet's figures that a kernel of small tiles reaches: assumed."""
CACHE = 2.0
"""Bytes a second out of caches, by those out of memory: assumed, and more on most GPUs."""


class Launch(NamedTuple):
    """One kernel of a step."""

    moved: float
    """Bytes that come from memory or go there at least once."""
    again: float = 0.0
    """Bytes beyond these that a cache may give."""
    needed: float = 0.0
    """Multiplications and additions of the definition ..."""
    done: float = 0.0
    """... and of the tiles."""

    def floor(self, gpu: Gpu) -> float:
        """Seconds below which no kernel gets."""
        return max(self.moved / gpu.bandwidth, self.needed / gpu.flops)

    def estimate(self, gpu: Gpu, launch: float = LAUNCH) -> float:
        """Seconds that this one should take; `launch`: of one that has nothing to do."""
        memory = self.moved / (OF_BANDWIDTH * gpu.bandwidth)
        caches = (self.moved + self.again) / (CACHE * gpu.bandwidth)
        return launch + max(memory, caches, self.done / (OF_FLOPS * gpu.flops))


class Cost(NamedTuple):
    """All launches of a step."""

    launches: int
    moved: float
    again: float
    needed: float
    done: float
    floor: float
    """Seconds."""
    estimate: float


def total(step: Sequence[Launch], gpu: Gpu, launch: float = LAUNCH) -> Cost:
    """Of launches that wait for each other."""
    moved, again, needed, done = (sum(part) for part in zip(*step, strict=True)) if step else (0.0,) * 4
    floor = sum(each.floor(gpu) for each in step)
    return Cost(
        len(step), moved, again, needed, done, floor, sum(each.estimate(gpu, launch) for each in step)
    )


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def product(tokens: int, inputs: int, outputs: int) -> Launch:
    """A linear layer of the base model."""
    flop = 2.0 * tokens * inputs * outputs
    moved = WIDTH * (inputs * outputs + tokens * (inputs + outputs))
    return Launch(moved, 0, flop, 2.0 * _up(tokens, 16) * inputs * outputs)


def base(model: Model, load: Load, context: int, gpus: int = 1) -> list[Launch]:
    """The base model, without what GPUs tell each other.

    Nine launches a layer: four products, attention, and four that only pass rows on (two norms, rotary
    embedding with the cache's write, activation), then the head.

    Args:
        model: on all GPUs.
        load: of the step.
        context: tokens of each request that lie in the cache before a step that decodes.
        gpus: that share the model.
    """
    rows = load.tokens
    layer = [product(rows, one.inputs, sum(one.outs)) for one in model.linears(gpus)]
    layer.append(_attention(model, load, context, gpus))
    layer += 3 * [Launch(WIDTH * 3 * rows * model.hidden)] + [Launch(WIDTH * 3 * rows * model.inner // gpus)]
    return model.layers * layer + [product(load.requests, model.hidden, model.vocabulary // gpus)]


def _attention(model: Model, load: Load, context: int, gpus: int) -> Launch:
    seen = (context if load.each == 1 else 0) + (load.each + 1) / 2  # tokens, mean
    kept = (context if load.each == 1 else 0) + load.each
    cache = 2 * load.requests * kept * model.kv_heads // gpus * model.head
    flop = 4.0 * load.tokens * seen * model.hidden / gpus
    return Launch(WIDTH * (cache + 2 * load.tokens * model.hidden // gpus), 0, flop, flop)


def ours(one: Linear, load: Load, adapters: int, rank: int, width: int) -> list[Launch]:
    """Shrink and expand of one linear layer: an adapter is read once for each block of tokens that uses it.

    Every token of a block meets the ranks of all adapters of the block. `hidden` is kept in two halves, 4
    bytes together; where the input features are split, parts of 4 bytes are written and read before.

    Args:
        one: the linear layer.
        load: of the step.
        adapters: that the step may choose from.
        rank: of each.
        width: adapters of a token.
    """
    tokens, slices, out = load.tokens, len(one.outs), sum(one.outs)
    used, block = load.adapters(adapters, width), load.block(adapters, width, BLOCK)
    reads = -(-tokens // BLOCK) * block - used
    tile, expand_tile = tiles(tokens, torch.bfloat16)
    rows, ranks = _up(tokens, tile.rows), block * _up(rank, UNIT)
    hidden, split = 4.0 * tokens * ranks, splits(tokens, one.inputs, tile)
    parts = 8.0 * split * rows * ranks if split > 1 else 0.0
    shrink = Launch(
        WIDTH * (used * rank * one.inputs * slices + tokens * one.inputs),
        WIDTH * one.inputs * (reads * rank * slices + tokens * (-(-ranks * slices // tile.union) - 1))
        + (parts + hidden) * slices,
        2.0 * tokens * width * rank * one.inputs * slices,
        2.0 * rows * ranks * one.inputs * slices,
    )
    expand = Launch(
        WIDTH * (used * rank * out + 2 * tokens * out),
        WIDTH * reads * rank * out + hidden * sum(-(-each // expand_tile.features) for each in one.outs),
        2.0 * tokens * width * rank * out,
        4.0 * _up(tokens, expand_tile.rows) * ranks * out,  # `hidden` in two parts of the type of B
    )
    return [shrink, expand]


def stock(one: Linear, load: Load, adapters: int, rank: int) -> list[Launch]:
    """The same with vLLM's own kernels, which know one adapter a token.

    As `vllm/lora/ops/triton_ops` of 0.32 has it without tuned settings: `hidden` is set to zero by a launch
    of its own; shrink has programs for each slice, which read x again, for 32 tokens of one adapter and 16
    ranks, the input features split 64 times below 128 tokens and 8 times above, parts added by atomics;
    expand has programs for 64 tokens and 64 or 128 output features, the rank filled up to 32.
    """
    tokens, slices, out = load.tokens, len(one.outs), sum(one.outs)
    used = load.adapters(adapters, 1)
    each = -(-tokens // used)
    split, tile = (64 if tokens < 128 else 8), (64 if slices > 1 else 128)
    hidden = 4.0 * slices * tokens * rank
    shrink = Launch(
        WIDTH * (used * rank * one.inputs * slices + tokens * one.inputs),
        WIDTH * one.inputs * ((slices - 1) * tokens + used * (-(-each // 32) - 1) * rank * slices)
        + split * hidden,
        2.0 * tokens * rank * one.inputs * slices,
        2.0 * used * _up(each, 32) * _up(rank, UNIT) * one.inputs * slices,
    )
    expand = Launch(
        WIDTH * (used * rank * out + 2 * tokens * out),
        WIDTH * used * (-(-each // 64) - 1) * rank * out + 4.0 * tokens * rank * (out / tile),
        2.0 * tokens * rank * out,
        2.0 * used * _up(each, 64) * _up(rank, 32) * out,
    )
    return [Launch(0, hidden), shrink, expand]
