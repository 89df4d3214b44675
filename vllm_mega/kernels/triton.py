"""The GPU path: two Triton kernels, and the plan of a step that they read.

Tested under Triton's interpreter on CPUs, and compiled on an H200 (`pytest -m gpu tests/kernels`); never
within vLLM's engine there. Its block sizes are reasoned, not tuned: docs/performance.md says what a step
takes.

Weights are read where they lie. A layer is a table of addresses on the device, `table` int64 [S, P, 3]:
(address of A, address of B, rank) by slot and output slice; A is [rank, I], B is [rank, O_p], scaling
included, both of the input's type. `entry` makes and checks such a triple. Rank 0: the adapter leaves this
slice alone.

A step's routing becomes a plan, once for all layers: blocks of at most `BLOCK` adjacent tokens with the same
mixture. A mixture is one adapter whose rank is the sum of its adapters' ranks; its rows are gathered by
address. The shrink kernel writes `weight * (A @ x)` in float32, the input features split over programs; the
expand kernel adds the parts up in a fixed order and adds the product with B to `y`, with one rounding.

Nothing that is launched depends on the step: grids follow from the rows of `x` and from constants, what a
program has to do is read from the plan, and no call waits for the device. So CUDA graphs may hold both
kernels. The split of the input features depends on the rows of `x`, and with it the last bits of the sum.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

from vllm_mega.kernels.triton_plan import BLOCK, SHRINKS, Plan

BLOCK_V = 64
"""Rows of gathered adapters that are multiplied at once."""
BLOCK_I = 128
"""Input features that the shrink kernel multiplies at once."""
BLOCK_O = 128
"""Output features of an expand program."""
ALIGNMENT = 16
"""Bytes. Addresses in a table are multiples of it, so that loads are as wide as the hardware has them."""
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_PROGRAMS = 4096  # several times what the largest GPU runs at once; blocks beyond that are looped over


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
        x: [T, I], each row contiguous; the type of `y` and of the weights.
        table: [S, P, 3] int64, see above; slots may lie apart, the rest is contiguous.
        outs: [P] output features of the slices.
        plan: of this step.
    """
    run = torch.ops.vllm_mega.add_mixture_triton if torch.compiler.is_compiling() else _launch
    run(y, x, table, list(outs), plan.blocks, plan.weights, plan.hidden)


def _launch(
    y: torch.Tensor,
    x: torch.Tensor,
    table: torch.Tensor,
    outs: list[int],
    blocks: torch.Tensor,
    weights: torch.Tensor,
    hidden: torch.Tensor,
) -> None:
    """`add_mixture` with the plan taken apart."""
    (rows, inputs), slices, width = x.shape, len(outs), weights.shape[1]
    if rows == 0 or width == 0:
        return
    if x.dtype not in DTYPES or y.dtype != x.dtype:
        raise ValueError(f"x is {x.dtype} and y {y.dtype}; both must be one of {DTYPES}")
    if y.shape != (rows, sum(outs)) or x.stride(1) != 1 or y.stride(1) != 1 or table.shape[1:] != (slices, 3):
        shapes = f"x {tuple(x.shape)}, y {tuple(y.shape)}, table {tuple(table.shape)}"
        raise ValueError(f"{shapes} and slices {outs} do not fit together")
    split = _split(rows * slices, inputs)
    if table.stride()[1:] != (3, 1):
        raise ValueError(f"a table with strides {table.stride()}: only slots may lie apart")
    if split * slices * rows > hidden.shape[0]:
        raise ValueError(f"{rows} rows of {slices} slices are more than the plan has room for")

    vector = ALIGNMENT // x.element_size()
    common = {
        "P": slices,
        "K": width,
        "V": hidden.shape[1],
        "BLOCK": BLOCK,
        "BLOCK_V": min(BLOCK_V, triton.next_power_of_2(hidden.shape[1])),
        # The interpreter multiplies the bits of bfloat16 as integers.
        "DOT": tl.float32 if x.is_cpu else getattr(tl, str(x.dtype).removeprefix("torch.")),
    }
    chunk = triton.cdiv(triton.cdiv(inputs, split), BLOCK_I) * BLOCK_I
    _shrink[(_lanes(rows, slices * split), slices, split)](
        x, table, table.stride(0), blocks, weights, hidden, rows, inputs, x.stride(0), chunk,
        BLOCK_I=BLOCK_I, ALIGNED=inputs % vector == 0, num_warps=4, num_stages=3, **common,
    )  # fmt: skip
    tiles = triton.cdiv(max(outs), BLOCK_O)
    _expand[(_lanes(rows, slices * tiles), tiles, slices)](
        y, table, table.stride(0), blocks, hidden, rows, y.stride(0),
        OUTS=tuple(outs), SPLIT=split, BLOCK_O=BLOCK_O, ALIGNED=all(o % vector == 0 for o in outs),
        num_warps=4, num_stages=2, **common,
    )  # fmt: skip


def _lanes(rows: int, others: int) -> int:
    """Programs along the blocks: as many as there may be of them, while that is not too many."""
    return min(rows, max(1, _PROGRAMS // others))


def _split(rows: int, inputs: int) -> int:
    """Parts of the input features: a power of two; a step of few rows has too few programs otherwise."""
    split = 1
    while split < 16 and 2 * split * rows <= SHRINKS and 2 * split * BLOCK_I <= inputs:
        split *= 2
    return split


# `hidden` is written before it is read within each call. It is not declared as mutated: what it holds
# afterwards means nothing, and a compiler that keeps it functional would copy it for every layer.
@torch.library.custom_op("vllm_mega::add_mixture_triton", mutates_args=("y",))
def _op(
    y: torch.Tensor,
    x: torch.Tensor,
    table: torch.Tensor,
    outs: list[int],
    blocks: torch.Tensor,
    weights: torch.Tensor,
    hidden: torch.Tensor,
) -> None:
    _launch(y, x, table, outs, blocks, weights, hidden)


@_op.register_fake
def _fake(*_: object) -> None:
    return None


@triton.jit  # type: ignore[untyped-decorator]
def _rank(table, stride, block, p, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """The rank of a block's mixture in slice p: the sum of its adapters' ranks."""
    total = tl.full((), 0, tl.int32)
    for k in tl.static_range(K):
        slot = tl.load(block + 3 + k).to(tl.int64)
        total += tl.load(table + slot * stride + p * 3 + 2, mask=slot >= 0, other=0).to(tl.int32)
    return total


@triton.jit  # type: ignore[untyped-decorator]
def _gather(table, stride, block, v, p, row_bytes, MATRIX: tl.constexpr, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Address and pair of the rows v of A (MATRIX 0) or B (1) of a block's mixture in slice p.

    Both are 0 where v is not below the mixture's rank.
    """
    address = v.to(tl.int64) * 0
    pair = v * 0
    first = tl.full((), 0, tl.int32)
    for k in tl.static_range(K):
        slot = tl.load(block + 3 + k).to(tl.int64)
        triple = table + slot * stride + p * 3
        rank = tl.load(triple + 2, mask=slot >= 0, other=0).to(tl.int32)
        base = tl.load(triple + MATRIX, mask=slot >= 0, other=0)
        mine = (v >= first) & (v < first + rank)
        address = tl.where(mine, base + (v - first).to(tl.int64) * row_bytes, address)
        pair = tl.where(mine, k, pair)
        first += rank
    return address, pair


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def _shrink(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
    x, table, stride_slot, blocks, weights, hidden, rows, inputs, stride_x, chunk,
    P: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BLOCK: tl.constexpr,
    BLOCK_V: tl.constexpr, BLOCK_I: tl.constexpr, ALIGNED: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """hidden[split, p, t, v] = weight[v] * A[v] @ x[t], over the split's input features.

    Grid: (lanes over blocks, P, SPLIT).
    """
    SIZE: tl.constexpr = x.dtype.element_ty.primitive_bitwidth // 8
    p = tl.program_id(1)
    split = tl.program_id(2)
    for n in range(tl.program_id(0), tl.load(blocks), tl.num_programs(0)):
        block = blocks + (n + 1) * (3 + K)
        token = tl.load(block) + tl.arange(0, BLOCK)
        live = (tl.arange(0, BLOCK) < tl.load(block + 1)) & (token < rows)
        token = token.to(tl.int64)
        total = _rank(table, stride_slot, block, p, K)
        for v0 in range(0, total, BLOCK_V):
            v = v0 + tl.arange(0, BLOCK_V)
            address, pair = _gather(table, stride_slot, block, v, p, inputs * SIZE, 0, K)
            factor = tl.load(weights + n * K + pair)
            a = address.to(tl.pointer_type(x.dtype.element_ty))
            if ALIGNED:
                a = tl.multiple_of(a, 16)
            acc = tl.full((BLOCK, BLOCK_V), 0.0, tl.float32)
            for i0 in range(split * chunk, tl.minimum(split * chunk + chunk, inputs), BLOCK_I):
                i = i0 + tl.arange(0, BLOCK_I)
                x_tile = tl.load(
                    x + token[:, None] * stride_x + i[None, :],
                    mask=live[:, None] & (i < inputs)[None, :], other=0.0,
                )  # fmt: skip
                a_tile = tl.load(
                    a[None, :] + i[:, None], mask=(v < total)[None, :] & (i < inputs)[:, None], other=0.0
                )
                acc = tl.dot(x_tile.to(DOT), a_tile.to(DOT), acc, input_precision="ieee")
            tl.store(
                hidden + ((split * P + p) * rows + token)[:, None] * V + v[None, :],
                acc * factor[None, :], mask=live[:, None] & (v < total)[None, :],
            )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def _expand(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
    y, table, stride_slot, blocks, hidden, rows, stride_y,
    OUTS: tl.constexpr, P: tl.constexpr, K: tl.constexpr, V: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_O: tl.constexpr, ALIGNED: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """y[t, o] += sum over v and splits of hidden[split, p, t, v] * B[v, o].

    Grid: (lanes over blocks, tiles of the widest slice, P).
    """
    SIZE: tl.constexpr = y.dtype.element_ty.primitive_bitwidth // 8
    p = tl.program_id(2)
    column = tl.full((), 0, tl.int32)
    width = tl.full((), 0, tl.int32)
    for i in tl.static_range(P):
        column += tl.where(i < p, OUTS[i], 0)
        width += tl.where(i == p, OUTS[i], 0)
    if ALIGNED:  # which the compiler does not see through the choice above
        column = tl.multiple_of(column, 16 // SIZE)
        width = tl.multiple_of(width, 16 // SIZE)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    count = tl.where(tl.program_id(1) * BLOCK_O < width, tl.load(blocks), 0)
    for n in range(tl.program_id(0), count, tl.num_programs(0)):
        block = blocks + (n + 1) * (3 + K)
        token = tl.load(block) + tl.arange(0, BLOCK)
        live = (tl.arange(0, BLOCK) < tl.load(block + 1)) & (token < rows)
        token = token.to(tl.int64)
        total = _rank(table, stride_slot, block, p, K)
        if total > 0:  # or else y is not even rounded: it stays as it is
            acc = tl.full((BLOCK, BLOCK_O), 0.0, tl.float32)
            for v0 in range(0, total, BLOCK_V):
                v = v0 + tl.arange(0, BLOCK_V)
                address, _ = _gather(table, stride_slot, block, v, p, width * SIZE, 1, K)
                b = address.to(tl.pointer_type(y.dtype.element_ty))
                if ALIGNED:
                    b = tl.multiple_of(b, 16)
                b_tile = tl.load(
                    b[:, None] + o[None, :], mask=(v < total)[:, None] & (o < width)[None, :], other=0.0
                )
                h = tl.full((BLOCK, BLOCK_V), 0.0, tl.float32)
                for split in tl.static_range(SPLIT):
                    h += tl.load(
                        hidden + ((split * P + p) * rows + token)[:, None] * V + v[None, :],
                        mask=live[:, None] & (v < total)[None, :], other=0.0,
                    )  # fmt: skip
                # Twice the type of B carries float32's `hidden` through the tensor cores nearly unrounded.
                high = h.to(y.dtype.element_ty)
                acc = tl.dot(high.to(DOT), b_tile.to(DOT), acc, input_precision="ieee")
                if y.dtype.element_ty != tl.float32:
                    low = (h - high.to(tl.float32)).to(y.dtype.element_ty)
                    acc = tl.dot(low.to(DOT), b_tile.to(DOT), acc, input_precision="ieee")
            place = y + token[:, None] * stride_y + (column + o)[None, :]
            mask = live[:, None] & (o < width)[None, :]
            old = tl.load(place, mask=mask, other=0.0).to(tl.float32)
            tl.store(place, (old + acc).to(y.dtype.element_ty), mask=mask)
