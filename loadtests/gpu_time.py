"""Milliseconds of work that is replayed as a CUDA graph, and what the GPU itself can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from loadtests.roofline_data import GPUS, Gpu

WARM, TIMES = 3, 15
"""Replays that are not counted, and those whose median is taken ..."""
ENOUGH = 0.25
"""... but no more when these have taken so many seconds."""
NODES = 256
OTHER_KINDS = {"PCIe", "PCIE", "NVL", "40GB", "Laptop", "MIG"}
"""Words of names that share a model's number, but not its data sheet."""


class Clock:
    """How much of the time is left."""

    def __init__(self, seconds: float) -> None:
        """The time begins to run now, and is over after `seconds`."""
        self._end = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        """Whether nothing else may begin."""
        return time.monotonic() > self._end


def graph_ms(work: Callable[[], object]) -> float:
    """Of one replay, median."""
    return _median_ms(captured(work))


def captured(work: Callable[[], object]) -> Callable[[], object]:
    """What replays `work` as a CUDA graph, which has been done twice by then. What it reads must stay."""
    for _ in range(2):  # compiles and allocates
        work()
    torch.cuda.synchronize()
    graph: Any = torch.cuda.CUDAGraph
    made = graph()
    with torch.cuda.graph(made):
        work()
    replay: Callable[[], object] = made.replay
    return replay


def _median_ms(work: Callable[[], object]) -> float:
    for _ in range(WARM):
        work()
    taken, end = list[float](), Clock(ENOUGH)
    while len(taken) < 3 or (len(taken) < TIMES and not end.over):
        taken.append(_ms(work))
    return median(taken)


def _ms(work: Callable[[], object]) -> float:
    event: Any = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def copy_speed() -> float:
    """Bytes read and written a second by a copy of 1 GiB."""
    here = torch.zeros(2**30, dtype=torch.uint8, device="cuda")
    there = torch.empty_like(here)
    return 2e3 * len(here) / graph_ms(lambda: there.copy_(here))


def product_speed() -> float:
    """Multiplications and additions a second of a square product of 8,192 in bfloat16."""
    side = 8192
    a, b = (torch.empty(side, side, dtype=torch.bfloat16, device="cuda").normal_() for _ in range(2))
    return 2e3 * side**3 / graph_ms(lambda: a @ b)


def launch_seconds() -> float:
    """Of a kernel in a graph that has nothing to do but to wait for the one before it."""
    few = torch.zeros(16, device="cuda")

    def work() -> None:
        for _ in range(NODES):
            few.add_(1)

    return graph_ms(work) / 1e3 / NODES


def known(name: str) -> Gpu | None:
    """The data sheet of the GPU that torch calls `name`; None: of another kind than those in `GPUS`."""
    words = set(name.replace("-", " ").split())
    fitting = (gpu for gpu in GPUS.values() if words.issuperset(gpu.name.split()))
    return None if words & OTHER_KINDS else next(fitting, None)


def this_gpu(copy: float, product: float) -> Gpu:
    """By its data sheet; what was measured in place of it where there is none here.

    Args:
        copy: bytes a second.
        product: multiplications and additions a second.
    """
    name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    return known(name) or Gpu(name, copy, product, memory, "measured here")
