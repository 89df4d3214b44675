"""The GPU path: two Triton kernels, and how they are launched.

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

from vllm_mega.kernels.triton_plan import BLOCK, RECORD, SPLITS, UNIT, Plan

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
    _shrink[(lanes, blocks, split)](
        x, table, table.stride(0), starts, records, hidden, parts, counters, rows, inputs, x.stride(0), steps,
        **shrink_constants(inputs, x.dtype, shrink), **common,
    )  # fmt: skip
    columns = sum(triton.cdiv(out, expand.features) for out in outs)
    _expand[(columns, triton.cdiv(rows, expand.rows))](
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


_BLOCK: tl.constexpr = tl.constexpr(BLOCK)
_UNIT: tl.constexpr = tl.constexpr(UNIT)
_RECORD: tl.constexpr = tl.constexpr(RECORD)


@triton.jit  # type: ignore[untyped-decorator]
def _gather(table, stride, record, there, p, r, row_bytes, MATRIX: tl.constexpr):  # type: ignore[no-untyped-def]
    """Addresses of the rows r of the units at `record` of A (MATRIX 0) or B (1) in slice p; which exist."""
    unit = tl.load(record, mask=there, other=0)
    triple = table + (unit >> 16).to(tl.int64) * stride + p * 3
    rank = tl.load(triple + 2, mask=there, other=0).to(tl.int32)
    row = (unit & 0xFFFF) * _UNIT + r
    return tl.load(triple + MATRIX) + row.to(tl.int64) * row_bytes, row < rank


@triton.jit
def _add_up(acc, place, stride, mask, counter):  # type: ignore[no-untyped-def]
    """Leave this split's part; the sum of all, in their order, and whether this is the last to come."""
    UNROLL: tl.constexpr = 128 // acc.shape[0]  # loads that are under way at once; a matter of registers
    splits = tl.num_programs(2)
    tl.store(place + tl.program_id(2) * stride, acc, mask=mask)
    tl.debug_barrier()  # all threads' numbers are written before it is said that they are
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == splits - 1
    if last:
        tl.debug_barrier()
        acc = tl.full(acc.shape, 0.0, tl.float32)
        for split in tl.range(0, splits, num_stages=1, loop_unroll_factor=UNROLL):
            acc += tl.load(place + split * stride, mask=mask, other=0.0, cache_modifier=".cg")
        tl.store(counter, 0)
    return acc, last


@triton.jit(do_not_specialize=["table", "stride_slot", "starts", "records", "rows", "steps"])  # type: ignore[untyped-decorator]
def _shrink(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
    x, table, stride_slot, starts, records, hidden, parts, counters, rows, inputs, stride_x, steps,
    P: tl.constexpr, M: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_I: tl.constexpr,
    EVEN: tl.constexpr, ALIGNED: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """hidden[t, v] = weight[t, v] * A[v] @ x[t]; v: 16 rows of a unit, of every slice, of every unit.

    Of a block with V such rows: hidden [2 (high and low half), BLOCK, V], parts [splits, M, V] of M tokens.
    Grid: (lanes over tiles of v, tiles of M tokens, splits). A split has `steps` times BLOCK_I features.
    """
    SIZE: tl.constexpr = x.dtype.element_ty.primitive_bitwidth // 8
    PLANES: tl.constexpr = 1 if SIZE == 4 else 2
    block = tl.program_id(1) * M // _BLOCK
    inside = tl.program_id(1) * M % _BLOCK
    split = tl.program_id(2)
    start = tl.load(starts + block)
    count = tl.load(starts + block + 1) - start
    start = start.to(tl.int64)
    V = count * P * _UNIT

    local = inside + tl.arange(0, M)
    token = tl.minimum(block * _BLOCK + local, rows - 1)  # rows behind the last one are nobody's
    x_row = x + token.to(tl.int64) * stride_x
    end = tl.minimum(split * steps + steps, (inputs + BLOCK_I - 1) // BLOCK_I)
    for tile in range(tl.program_id(0), (V + BLOCK_V - 1) // BLOCK_V, tl.num_programs(0)):
        v = tile * BLOCK_V + tl.arange(0, BLOCK_V)
        u = v // (_UNIT * P)
        record = records + (start + u) * _RECORD
        address, live = _gather(
            table, stride_slot, record, u < count, v // _UNIT % P, v % _UNIT, inputs * SIZE, 0
        )
        a = address.to(tl.pointer_type(x.dtype.element_ty))
        if ALIGNED:
            a = tl.multiple_of(a, 16)
        acc = tl.full((M, BLOCK_V), 0.0, tl.float32)
        for step in range(split * steps, end):
            i = step * BLOCK_I + tl.arange(0, BLOCK_I)
            if EVEN:
                x_tile = tl.load(x_row[:, None] + i[None, :])
                a_tile = tl.load(a[None, :] + i[:, None], mask=live[None, :], other=0.0)
            else:
                x_tile = tl.load(x_row[:, None] + i[None, :], mask=(i < inputs)[None, :], other=0.0)
                a_tile = tl.load(
                    a[None, :] + i[:, None], mask=live[None, :] & (i < inputs)[:, None], other=0.0
                )
            acc = tl.dot(x_tile.to(DOT), a_tile.to(DOT), acc, input_precision="ieee")

        whole = (v < V)[None, :]
        row = tl.arange(0, M)[:, None] * V + v[None, :]
        last = tl.full((), 1, tl.int1)
        if tl.num_programs(2) > 1:
            tokens = start * _BLOCK + inside * count  # the units' tokens before these
            counter = counters + tokens // 16 * P + tile
            own = parts + tokens * tl.num_programs(2) * (P * _UNIT) + row
            acc, last = _add_up(acc, own, M * V, whole, counter)
        if last:
            weight = tl.load(record[None, :] + 1 + local[:, None], mask=whole, other=0)
            weight = weight.to(tl.float32, bitcast=True)
            acc = tl.where(weight != 0, acc * weight, 0.0)
            place = hidden + start * (PLANES * _BLOCK * P * _UNIT) + inside * V + row
            high = acc.to(x.dtype.element_ty)
            tl.store(place, high, mask=whole)
            if PLANES == 2:  # which carry float32 through the tensor cores nearly unrounded
                tl.store(place + _BLOCK * V, (acc - high.to(tl.float32)).to(x.dtype.element_ty), mask=whole)


@triton.jit(do_not_specialize=["table", "stride_slot", "starts", "records", "rows"])  # type: ignore[untyped-decorator]
def _expand(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
    y, table, stride_slot, starts, records, hidden, rows, stride_y,
    OUTS: tl.constexpr, P: tl.constexpr, M: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_O: tl.constexpr,
    ALIGNED: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """y[t, o] += sum over v of hidden[t, v] * B[v, o], v of the slice that o lies in.

    Grid: (tiles of the output features of every slice, tiles of M tokens).
    """
    SIZE: tl.constexpr = y.dtype.element_ty.primitive_bitwidth // 8
    PLANES: tl.constexpr = 1 if SIZE == 4 else 2
    p = tl.full((), 0, tl.int32)
    first = tl.full((), 0, tl.int32)
    column = tl.full((), 0, tl.int32)
    width = tl.full((), OUTS[0], tl.int32)
    for i in tl.static_range(1, P):
        beyond = first + (width + BLOCK_O - 1) // BLOCK_O
        if tl.program_id(0) >= beyond:
            p = tl.full((), i, tl.int32)
            first = beyond
            column += width
            width = tl.full((), OUTS[i], tl.int32)
    if ALIGNED:  # which the compiler does not see through the choice above
        column = tl.multiple_of(column, 16 // SIZE)
        width = tl.multiple_of(width, 16 // SIZE)

    block = tl.program_id(1) * M // _BLOCK
    local = tl.program_id(1) * M % _BLOCK + tl.arange(0, M)
    start = tl.load(starts + block)
    count = tl.load(starts + block + 1) - start
    start = start.to(tl.int64)
    V = count * P * _UNIT
    if count > 0:
        o = (tl.program_id(0) - first) * BLOCK_O + tl.arange(0, BLOCK_O)
        token = block * _BLOCK + local
        place = y + token.to(tl.int64)[:, None] * stride_y + (column + o)[None, :]
        inside = (token < rows)[:, None] & (o < width)[None, :]
        old = tl.load(place, mask=inside, other=0.0)
        h_row = hidden + start * (PLANES * _BLOCK * P * _UNIT) + local * V
        acc = tl.full((M, BLOCK_O), 0.0, tl.float32)
        for v0 in range(0, count * _UNIT, BLOCK_V):
            v = v0 + tl.arange(0, BLOCK_V)
            u = v // _UNIT
            there = u < count
            record = records + (start + u) * _RECORD
            address, live = _gather(table, stride_slot, record, there, p, v % _UNIT, width * SIZE, 1)
            b = address.to(tl.pointer_type(y.dtype.element_ty))
            if ALIGNED:
                b = tl.multiple_of(b, 16)
            b_tile = tl.load(
                b[:, None] + o[None, :], mask=live[:, None] & (o < width)[None, :], other=0.0
            ).to(DOT)  # fmt: skip
            h = h_row[:, None] + ((u * P + p) * _UNIT + v % _UNIT)[None, :]
            high = tl.load(h, mask=there[None, :], other=0.0)
            acc = tl.dot(high.to(DOT), b_tile, acc, input_precision="ieee")
            if PLANES == 2:
                low = tl.load(h + _BLOCK * V, mask=there[None, :], other=0.0)
                acc = tl.dot(low.to(DOT), b_tile, acc, input_precision="ieee")
        # What a token's adapters leave alone keeps its bits: nothing was added to it but zeros.
        tl.store(place, (old.to(tl.float32) + acc).to(y.dtype.element_ty), mask=inside & (acc != 0.0))
