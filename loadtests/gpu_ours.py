"""Our kernels on the adapters of `loadtests.gpu_shapes`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from loadtests.gpu_shapes import Adapters, Routing, Rows
from vllm_mega.kernels import triton as kernels
from vllm_mega.kernels.triton_plan import Plan, Sizes, chunks


def table(adapters: Adapters) -> torch.Tensor:
    """[S, P, 3] int64, as `kernels.triton` reads it: addresses of A and B, and the rank."""
    rows = [
        [
            (a[slot].data_ptr(), b[slot].data_ptr(), int(adapters.ranks[slot, p]))
            for p, (a, b) in enumerate(zip(adapters.a, adapters.b, strict=True))
        ]
        for slot in range(len(adapters.ranks))
    ]
    return torch.tensor(rows, dtype=torch.int64, device=adapters.a[0].device)


class OurStep:
    """Linear layers with adapters, and one plan for all of them."""

    def __init__(
        self, layers: Sequence[Adapters], tables: Sequence[torch.Tensor], tokens: int, width: int
    ) -> None:
        """`tables`: those of `layers`. `tokens`, `width`: the most of a step."""
        self._layers = list(zip(tables, (one.linear.outs for one in layers), strict=True))
        self._kept = layers
        ranks = np.max([one.ranks.max(axis=1) for one in layers], axis=0)
        slices = max(len(one.linear.outs) for one in layers)
        sizes = Sizes(tokens, len(ranks), int(ranks.max()), slices, width=width)
        self._plan = Plan(sizes, layers[0].a[0].dtype, tables[0].device)
        self._chunks = np.array([chunks(int(rank)) for rank in ranks], dtype=np.int32)

    def plan(self, routing: Routing) -> None:
        """Take over a step."""
        self._plan.update(*routing, self._chunks)

    def __call__(self, rows: Sequence[Rows]) -> None:
        """Add the mixtures of the step to `y` of each layer, in place."""
        for (addresses, outs), (x, y) in zip(self._layers, rows, strict=True):
            kernels.add_mixture(y, x, addresses, outs, self._plan)
