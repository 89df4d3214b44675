"""The GPU kernels at the shapes of an 8B model: python -m loadtests.kernels --output out/kernels.json

Adapters of one rank on all linear layers of Llama-3.1-8B, eight of them in slots: what all kernels of a step
take together, as one CUDA graph, beside the time that the bytes take which they have to move.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from statistics import median
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from loadtests.machine import Machine, this_machine
from loadtests.program import Program
from vllm_mega.errors import ConfigError
from vllm_mega.kernels import triton as kernels
from vllm_mega.kernels import triton_plan

LAYERS, ADAPTERS, WIDTH = 32, 8, 4
MODULES: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "qkv_proj": (4096, (4096, 1024, 1024)),
    "o_proj": (4096, (4096,)),
    "gate_up_proj": (4096, (14336, 14336)),
    "down_proj": (14336, (4096,)),
}
"""Of Llama-3.1-8B: input features, output features of each slice."""
RANKS = (4, 16)
DTYPE = torch.bfloat16


class Load(NamedTuple):
    """Tokens of a step."""

    name: str
    requests: int
    tokens: int
    """Of each request."""


LOADS = (
    Load("decode 1", 1, 1),
    Load("decode 16", 16, 1),
    Load("decode 64", 64, 1),
    Load("prompt 512", 1, 512),
)


class Row(msgspec.Struct, frozen=True):
    """One load with adapters of one rank."""

    load: str
    rank: int
    ms: float
    """Of all launches of a step, median."""
    floor_ms: float
    """What their bytes take at the speed of a copy."""
    launches: int


class Result(msgspec.Struct):
    """What the output file says."""

    machine: Machine
    gpu: str
    copy_gb_s: float
    """Read and written, of a large copy on the card."""
    rows: list[Row]


def routing(load: Load) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Slot and weight [T, WIDTH]: every request has adapters of its own choice. Pure."""
    draw = np.random.default_rng(0)
    slot = np.stack([draw.permutation(ADAPTERS)[:WIDTH] for _ in range(load.requests)])
    slot = np.repeat(slot, load.tokens, axis=0)
    return slot.astype(np.int32), np.full(slot.shape, 0.25).astype(np.float32)


def floor_bytes(slots: int, tokens: int, rank: int) -> int:
    """What a step has to move: `slots` adapters read once, x read, y read and written. Pure."""
    numbers = sum(
        slots * rank * (inputs * len(outs) + sum(outs)) + tokens * (inputs + 2 * sum(outs))
        for inputs, outs in MODULES.values()
    )
    return DTYPE.itemsize * LAYERS * numbers


class Step:
    """All layers with adapters of one rank, and a step of one load."""

    def __init__(self, load: Load, rank: int) -> None:
        slot, weight = routing(load)
        tokens = len(slot)
        most = max(len(outs) for _, outs in MODULES.values())
        self.plan = triton_plan.Plan(tokens, WIDTH, rank, most, "cuda")
        self.plan.update(slot, weight)
        self.kept: list[torch.Tensor] = []
        self.calls = [self._call(tokens, rank, *shape) for _ in range(LAYERS) for shape in MODULES.values()]

    def _call(self, tokens: int, rank: int, inputs: int, outs: tuple[int, ...]) -> tuple[Any, ...]:
        rows = []
        for _ in range(ADAPTERS):
            pairs = [(_random(rank, inputs), _random(rank, out)) for out in outs]
            self.kept += [tensor for pair in pairs for tensor in pair]
            rows.append([kernels.entry(*pair, rank) for pair in pairs])
        table = torch.tensor(rows, dtype=torch.int64, device="cuda")
        return _random(tokens, sum(outs)), _random(tokens, inputs), table, outs

    def __call__(self) -> None:
        for y, x, table, outs in self.calls:
            kernels.add_mixture(y, x, table, outs, self.plan)


def _random(rows: int, columns: int) -> torch.Tensor:
    return torch.empty(rows, columns, dtype=DTYPE, device="cuda").normal_(std=0.02)


def graph_ms(step: Step) -> float:
    """Milliseconds of a step that is replayed as a CUDA graph, median."""
    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return _ms(graph.replay)


def _ms(work: Any, times: int = 30) -> float:
    event: Any = torch.cuda.Event
    taken = list[float]()
    for _ in range(times):
        begin, end = event(enable_timing=True), event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end))
    return median(taken[times // 3 :])


def copy_speed() -> float:
    """Bytes read and written a second by a copy of 2 GiB."""
    here = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    there = torch.empty_like(here)
    return 2 * len(here) / (_ms(lambda: there.copy_(here)) / 1e3)


def measure(_args: argparse.Namespace, console: Console) -> Result:
    """Every load with adapters of every rank.

    Raises:
        ConfigError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise ConfigError("torch sees no GPU here, and these kernels are for GPUs")
    speed, rows = copy_speed(), []
    for rank in RANKS:
        for load in LOADS:
            slot, _ = routing(load)
            floor = floor_bytes(len(np.unique(slot)), len(slot), rank) / speed
            ms = graph_ms(Step(load, rank))
            rows.append(Row(load.name, rank, ms, 1e3 * floor, 2 * LAYERS * len(MODULES)))
            console.print(rows[-1])
    return Result(this_machine("bfloat16"), torch.cuda.get_device_name(), speed / 1e9, rows)


def table(result: Result) -> Table:
    """A line for each load and rank."""
    title = f"{result.gpu}, a copy moves {result.copy_gb_s:,.0f} GB/s; mixtures of {WIDTH} of {ADAPTERS}"
    shown = Table("load", "rank", "ms a step", "floor, ms", "launches", title=title)
    for r in result.rows:
        shown.add_row(r.load, str(r.rank), f"{r.ms:.2f}", f"{r.floor_ms:.2f}", str(r.launches))
    return shown


PROGRAM = Program(
    "kernels", measure, table,
    "Time the GPU kernels at the shapes of Llama-3.1-8B, adapters on all linear layers.",
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(PROGRAM.main())
