"""The CPU path: what the compiled kernel is given, and the operator that calls it.

Weights are read where they lie. A layer is a table of addresses: giving an adapter a slot writes a few
numbers, and no step copies, pads or gathers weights. A step's routing becomes a plan, once for all
layers: tokens grouped by tile and slot, so that a weight that is loaded serves all tokens that use it.

In eager mode a layer calls the kernel directly; a compiled graph calls `torch.ops.vllm_mega.add_mixture`,
which is opaque, so that nothing that depends on the step is frozen into the graph.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vllm_mega.kernels import native

COLUMNS = 64
"""B lies in blocks of so many output features (`kColumns`)."""
TILE = 32
"""Tokens of a tile (`kTile`)."""
PANEL, DEPTH = 16, 32
"""Ranks of a panel of A (`kSide`); inputs that a product of the AMX kernel adds up (`kDepth`)."""
DTYPES = (torch.float32, torch.bfloat16)
_REASONS = {
    1: "the plan has more tokens than the input has rows",
    2: "an adapter has more than the largest rank",
}


def layout(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """lora_A [R, I] and lora_B [O, R], of one of `DTYPES`, as the kernel reads them here: both flat.

    Raises:
        KernelError: see `native.functions`.
    """
    panels = a.dtype == torch.bfloat16 and native.has_amx()
    return paneled(a) if panels else a.flatten(), blocked(b)


def paneled(a: torch.Tensor) -> torch.Tensor:
    """lora_A [R, I] in bfloat16 as the AMX kernel reads it, flat.

    Panels of `PANEL` ranks (the last has what is left), each [I / 2, ranks, 2]: pairs of inputs. I is filled
    with zeros to a multiple of `DEPTH`. The kernel reads `PANEL` ranks of every row, so zeros lie behind the
    last one, too.
    """
    rows = torch.nn.functional.pad(a, (0, -a.shape[1] % DEPTH))
    pairs = rows.view(a.shape[0], rows.shape[1] // 2, 2).transpose(0, 1)
    panels = [pairs[:, r : r + PANEL].flatten() for r in range(0, a.shape[0], PANEL)]
    return torch.cat([*panels, a.new_zeros(2 * PANEL if a.shape[0] % PANEL else 0)])


def blocked(b: torch.Tensor) -> torch.Tensor:
    """lora_B [O, R] as the kernel reads it, flat.

    Blocks of `COLUMNS` output features, each [R / n, COLUMNS, n], where n numbers make 32 bits: bfloat16
    lies in pairs of ranks. The last block and the last pair are filled with zeros.
    """
    n = 4 // b.element_size()
    blocks, pairs = -(-b.shape[0] // COLUMNS), -(-b.shape[1] // n)
    padded = torch.nn.functional.pad(b, (0, pairs * n - b.shape[1], 0, blocks * COLUMNS - b.shape[0]))
    return padded.view(blocks, COLUMNS, pairs, n).transpose(1, 2).flatten()


class Plan:
    """The routing of one step, as arrays in persistent buffers that the kernel walks.

    `tile_group` [tiles + 1] -> `group_slot` [groups], `group_entry` [groups + 1] -> `entry_token`,
    `entry_weight` [entries]. A tile is `TILE` adjacent tokens, a group its tokens that use one slot.
    """

    def __init__(self, max_tokens: int, slots: int) -> None:
        self.slots = slots
        tiles = -(-max_tokens // TILE)
        sizes = (tiles + 1, tiles * slots, tiles * slots + 1, max_tokens * slots)
        self.arrays = [torch.zeros(n, dtype=torch.int32) for n in sizes]
        self.weight = torch.zeros(max_tokens * slots)
        self._buffers = [tensor.numpy() for tensor in (*self.arrays, self.weight)]
        self.head = torch.zeros(2, dtype=torch.int64)
        """Number of tiles; number of tokens that the plan speaks of."""
        self.struct = native.Step()
        self.struct.arrays = (ctypes.c_void_p * 5)(*(a.data_ptr() for a in (*self.arrays, self.weight)))
        self.struct.head = self.head.data_ptr()
        self.address = ctypes.addressof(self.struct)
        self.used = np.zeros(0, np.int32)
        """Slots that the step uses."""

    def update(self, slot: NDArray[np.int32], weight: NDArray[np.float32]) -> None:
        """Take over the routing table of a step.

        Args:
            slot: [T, K]; negative means the null slot.
            weight: [T, K].
        """
        token, k = np.nonzero((slot >= 0) & (weight != 0))
        slots, weights = slot[token, k], weight[token, k]
        order = np.argsort(token // TILE * self.slots + slots, kind="stable")
        token, slots, weights = token[order], slots[order], weights[order]
        tile = token // TILE
        new_tile = np.diff(tile, prepend=-1) != 0
        group = np.flatnonzero(new_tile | (np.diff(slots, prepend=-1) != 0))
        first = np.flatnonzero(new_tile[group])
        values: list[NDArray[Any]] = [
            np.append(first, len(group)),
            slots[group],
            np.append(group, len(token)),
            token,
            weights,
        ]
        for buffer, value in zip(self._buffers, values, strict=True):
            buffer[: len(value)] = value
        self.head[0], self.head[1] = len(first), int(token.max(initial=-1)) + 1
        self.used = np.unique(slots)


class Layer:
    """The slots of one linear layer.

    `table` is int64 [S, P, 3]: by slot and output slice, the address of A, the address of B, the rank.
    Slots may lie apart; the rest is contiguous. A and B are as `layout` makes them. Rank 0: the slot's
    adapter leaves this slice alone.
    """

    def __init__(self, table: torch.Tensor, inputs: int, outputs: Sequence[int], max_rank: int) -> None:
        self.table = table
        numbers = [len(outputs), inputs, max_rank, table.stride(0), *outputs]
        self.sizes = torch.tensor(numbers, dtype=torch.int64)
        """P, I, the largest rank, numbers from slot to slot in `table`, then O_p of every slice."""
        self.struct = native.Layer(self.sizes.data_ptr(), table.data_ptr())
        self.address = ctypes.addressof(self.struct)


def add_mixture(y: torch.Tensor, x: torch.Tensor, layer: Layer, plan: Plan) -> None:
    """Add every token's mixture to `y`, in place.

    Args:
        y: [T, sum of O_p], the output slices side by side, each row contiguous.
        x: [T, I], each row contiguous; `y` and the weights are of its type.
        layer: its weights and sizes.
        plan: the routing of the step.
    """
    if torch.compiler.is_compiling():
        torch.ops.vllm_mega.add_mixture(y, x, layer.table, layer.sizes, plan.head, plan.arrays, plan.weight)
    else:
        _call(y, x, layer.address, plan.address)


def _call(y: torch.Tensor, x: torch.Tensor, layer: int, step: int) -> None:
    function = native.functions()[x.dtype]
    error = function(layer, step, y.data_ptr(), y.stride(0), x.data_ptr(), x.stride(0), x.shape[0])
    if error:
        raise AssertionError(_REASONS[error])


def _operator(
    y: torch.Tensor,
    x: torch.Tensor,
    table: torch.Tensor,
    sizes: torch.Tensor,
    head: torch.Tensor,
    arrays: Sequence[torch.Tensor],
    weight: torch.Tensor,
) -> None:
    layer = native.Layer(sizes.data_ptr(), table.data_ptr())
    step = native.Step(head.data_ptr(), tuple(a.data_ptr() for a in (*arrays, weight)))
    _call(y, x, ctypes.addressof(layer), ctypes.addressof(step))


_LIBRARY: Any = torch.library.Library("vllm_mega", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "add_mixture(Tensor(a!) y, Tensor x, Tensor table, Tensor sizes, Tensor head, Tensor[] arrays, "
    "Tensor weight) -> ()",
    tags=(torch.Tag.needs_fixed_stride_order,),
)
_LIBRARY.impl("add_mixture", _operator, "CPU")
# Nothing to shape: the operator changes `y` and returns nothing.
torch.library.register_fake("vllm_mega::add_mixture", lambda *_: None, lib=_LIBRARY)
