"""The GPU path: how two Triton kernels (`triton_kernels`) are launched, and on what.

Weights are read where they lie. A layer is a table of addresses on the device, `table` int64 [S, P, 3]:
(address of A, address of B, rank) by slot and output slice; A is [rank, I], B is [rank, O_p], scaling
included, both of the input's type and finite. `entry` makes and checks such a triple. Rank 0: the adapter
leaves this slice alone.

A step's routing becomes a plan, once for all layers (`triton_plan`): for each block of 64 adjacent tokens the
adapters that any of them uses, their union. The shrink kernel multiplies all tokens of a block with all rows
of its union, of all slices, so that x and each weight are read once, and keeps `weight * (A @ x)`: exactly
zero where a token does not use an adapter, whatever stood there. The expand kernel multiplies that with B
and adds it to `y`, with one rounding. So in decode requests share what they read, whoever uses which
adapters, and in a prompt the union is its mixture.

Where rows are few, the input features are split over programs; who comes last adds up the parts, in their
order. What a token gets does not depend on what others use: foreign adapters add zeros.

Nothing that is launched depends on the step: grids follow from the rows of `x` and from constants, what a
program has to do is read from the plan, and no call waits for the device. So CUDA graphs may hold both
kernels. The split of the input features depends on the rows of `x`, and with it the last bits of the sum.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

from vllm_mega.kernels import triton_kernels
from vllm_mega.kernels.triton_plan import BLOCK, SPLITS, UNIT, Plan

ALIGNMENT = 16
"""Bytes. Addresses in a table are multiples of it, so that loads are as wide as the hardware has them."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LANES = 16
"""Most programs along the rows of a block's union; they loop over what there is."""
PROGRAMS = 1024
"""Several times what the largest GPU runs at once: no more lanes than that asks for."""


class Tile(NamedTuple):
    """What a program multiplies at once, and how."""

    rows: int
    """Tokens: 16, 32 or 64."""
    union: int
    """Rows of the union."""
    features: int
    """Input or output features."""
    warps: int
    stages: int


FEW_ROWS = 16
"""Up to so many rows, tiles are `SHRINK_FEW` and `EXPAND_FEW`."""
SHRINK_FEW, EXPAND_FEW = Tile(16, 32, 256, 4, 3), Tile(16, 128, 64, 4, 2)
SHRINK, EXPAND = Tile(32, 32, 128, 4, 3), Tile(64, 64, 64, 4, 2)
SHRINK_FLOAT32, EXPAND_FLOAT32 = Tile(16, 32, 32, 4, 2), Tile(16, 16, 64, 4, 2)
"""Of float32, which tensor cores do not multiply."""


def entry(a: torch.Tensor, b: torch.Tensor, max_rank: int) -> tuple[int, int, int]:
    """What `table[s, p]` says of an adapter; the caller keeps both tensors alive as long as it stands there.

    Args:
        a: [rank, I] lora_A.
        b: [rank, O_p] lora_B transposed, scaling included.
        max_rank: that of the plan.

    Raises:
        ValueError: the kernels cannot read these tensors.
    """
    rank = a.shape[0]
    if a.dim() != 2 or b.dim() != 2 or b.shape[0] != rank or not 1 <= rank <= max_rank:
        shapes = f"A {tuple(a.shape)} and B {tuple(b.shape)}"
        raise ValueError(f"{shapes} must be [rank, I] and [rank, O], with a rank of 1 to {max_rank}")
    for name, t in (("A", a), ("B", b)):
        if t.dtype not in DTYPES or t.dtype != a.dtype or t.device != a.device or not t.is_contiguous():
            raise ValueError(f"{name} must be contiguous, of one device and of one of the types {DTYPES}")
        if t.data_ptr() % ALIGNMENT:
            raise ValueError(f"{name} lies at {t.data_ptr():#x}, which is no multiple of {ALIGNMENT} bytes")
    return a.data_ptr(), b.data_ptr(), rank


def add_mixture(
    y: torch.Tensor, x: torch.Tensor, table: torch.Tensor, outs: tuple[int, ...], plan: Plan
) -> None:
    """Add every token's mixture to `y`, in place; rows that the plan does not speak of stay as they are.

    Args:
        y: [T, sum of outs], the output slices side by side, each row contiguous.
        x: [T, I], each row contiguous; the type of `y`, of the weights and of the plan.
        table: [S, P, 3] int64, see above; slots may lie apart, the rest is contiguous.
        outs: [P] output features of the slices.
        plan: of this step.
    """
    run = torch.ops.vllm_mega.add_mixture_triton if torch.compiler.is_compiling() else _launch
    run(y, x, table, list(outs), plan.tensors)


def _launch(
    y: torch.Tensor, x: torch.Tensor, table: torch.Tensor, outs: list[int], plan: list[torch.Tensor]
) -> None:
    """`add_mixture` with `Plan.tensors`."""
    _check(y, x, table, outs, plan)
    rows, inputs = x.shape
    starts, records, hidden, parts, counters, live = plan
    if rows == 0 or not bool(live):
        return
    shrink, expand = tiles(rows, x.dtype)
    split = splits(rows, inputs, shrink)
    common = {
        "P": len(outs),
        # The interpreter multiplies the bits of bfloat16 as integers.
        "DOT": tl.float32 if x.is_cpu else getattr(tl, str(x.dtype).removeprefix("torch.")),
    }
    blocks = triton.cdiv(rows, shrink.rows)
    lanes = min(LANES, max(2, PROGRAMS // (blocks * split)))
    steps = triton.cdiv(triton.cdiv(inputs, split), shrink.features)
    triton_kernels.shrink[(lanes, blocks, split)](
        x, table, table.stride(0), starts, records, hidden, parts, counters, rows, inputs, x.stride(0), steps,
        **shrink_constants(inputs, x.dtype, shrink), **common,
    )  # fmt: skip
    columns = sum(triton.cdiv(out, expand.features) for out in outs)
    triton_kernels.expand[(columns, triton.cdiv(rows, expand.rows))](
        y, table, table.stride(0), starts, records, hidden, rows, y.stride(0),
        **expand_constants(outs, y.dtype, expand), **common,
    )  # fmt: skip


def _check(
    y: torch.Tensor, x: torch.Tensor, table: torch.Tensor, outs: list[int], plan: list[torch.Tensor]
) -> None:
    (rows, _), slices = x.shape, len(outs)
    starts, records, hidden, *_ = plan
    if x.dtype not in DTYPES or y.dtype != x.dtype or hidden.dtype != x.dtype:
        raise ValueError(f"x {x.dtype}, y {y.dtype}, plan {hidden.dtype}; all must be the same of {DTYPES}")
    if y.shape != (rows, sum(outs)) or x.stride(1) != 1 or y.stride(1) != 1 or table.shape[1:] != (slices, 3):
        shapes = f"x {tuple(x.shape)}, y {tuple(y.shape)}, table {tuple(table.shape)}"
        raise ValueError(f"{shapes} and slices {outs} do not fit together")
    if table.stride()[1:] != (3, 1):
        raise ValueError(f"a table with strides {table.stride()}: only slots may lie apart")
    planes = 1 if x.dtype == torch.float32 else 2
    room = planes * len(records) * BLOCK * UNIT * slices
    if rows > BLOCK * (len(starts) - 1) or room > len(hidden):
        raise ValueError(f"{rows} rows of {slices} slices are more than the plan has room for")


def tiles(rows: int, dtype: torch.dtype) -> tuple[Tile, Tile]:
    """Of the shrink and of the expand kernel."""
    if dtype == torch.float32:
        return SHRINK_FLOAT32, EXPAND_FLOAT32
    return (SHRINK_FEW, EXPAND_FEW) if rows <= FEW_ROWS else (SHRINK, EXPAND)


def splits(rows: int, inputs: int, tile: Tile) -> int:
    """Parts of the input features: a power of two; a step of few rows has too few programs otherwise."""
    split = 1
    while 2 * split * triton.cdiv(rows, BLOCK) <= SPLITS and 2 * split * tile.features <= inputs:
        split *= 2
    return split


def shrink_constants(inputs: int, dtype: torch.dtype, tile: Tile) -> dict[str, object]:
    """What the shrink kernel is compiled for, beside the number of slices and the type."""
    return {
        "M": tile.rows,
        "BLOCK_V": tile.union,
        "BLOCK_I": tile.features,
        "EVEN": inputs % tile.features == 0,
        "ALIGNED": inputs * dtype.itemsize % ALIGNMENT == 0,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": True,  # Triton 3.9 warns of a default that will change
    }


def expand_constants(outs: list[int], dtype: torch.dtype, tile: Tile) -> dict[str, object]:
    """What the expand kernel is compiled for, beside the number of slices and the type."""
    return {
        "OUTS": tuple(outs),
        "M": tile.rows,
        "BLOCK_V": tile.union,
        "BLOCK_O": tile.features,
        "ALIGNED": all(out * dtype.itemsize % ALIGNMENT == 0 for out in outs),
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": True,  # Triton 3.9 warns of a default that will change
    }


# The plan's scratch is written before it is read within each call. It is not declared as mutated: what it
# holds afterwards means nothing, and a compiler that keeps it functional would copy it for every layer.
@torch.library.custom_op("vllm_mega::add_mixture_triton", mutates_args=("y",))
def _op(
    y: torch.Tensor, x: torch.Tensor, table: torch.Tensor, outs: list[int], plan: list[torch.Tensor]
) -> None:
    _launch(y, x, table, outs, plan)


@_op.register_fake
def _fake(*_: object) -> None:
    return None
