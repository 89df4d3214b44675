"""The two Triton kernels; how they are launched, and what stands in their arguments, says `triton`."""

from __future__ import annotations

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

from vllm_mega.kernels.triton_plan import BLOCK, RECORD, UNIT

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
def shrink(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
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
def expand(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917
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
