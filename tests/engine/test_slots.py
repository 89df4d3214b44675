"""The slots of a GPU, with the kernels under Triton's interpreter: the same answers as on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.engine.streams import Cuda
from tests.interpreted import interpret
from vllm_mega.engine.slots.base import Sizes
from vllm_mega.engine.slots.cpu import CpuSlots
from vllm_mega.engine.slots.cuda import CudaSlots, transposed
from vllm_mega.engine.slots.device import kernels_for
from vllm_mega.engine.slots.packed import pack
from vllm_mega.errors import ConfigError
from vllm_mega.kernels import cpu, triton_kernels

LAYERS = [(24, (16, 8, 8)), (33, (40,)), (16, (7,))]
SLOTS, TOKENS, RANK = 3, 12, 6
SIZES = Sizes(SLOTS, TOKENS, TOKENS, RANK)


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    interpret(monkeypatch, vars(triton_kernels))


def _gpu():
    return CudaSlots(LAYERS, SIZES, dtype=torch.float32, device=torch.device("cpu"), cuda=Cuda())


def _slices(seed: int):
    """Another rank for every slice; the second layer is left alone."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for n, (inputs, outputs) in enumerate(LAYERS):
        for out in outputs:
            rank = int(torch.randint(1, RANK + 1, (), generator=g))
            pair = torch.randn(rank, inputs, generator=g), torch.randn(out, rank, generator=g)
            found.append(None if n == 1 else pair)
    return found


def _run(slots, slot, weight):
    slots.route(slot, weight)
    g = torch.Generator().manual_seed(9)
    found = []
    for (inputs, outputs), layer in zip(LAYERS, slots.layers, strict=True):
        x, y = torch.randn(TOKENS, inputs, generator=g), torch.randn(TOKENS, sum(outputs), generator=g)
        layer.add_lora_linear(y, x, None, None, 1.0, outputs)
        found.append(y)
    return found


def test_slots_on_a_gpu_do_what_those_on_the_cpu_do():
    gpu = _gpu()
    host = CpuSlots(LAYERS, SIZES)
    rng = np.random.default_rng(0)
    slot = rng.integers(-1, SLOTS, (TOKENS, 2)).astype(np.int32)
    slot[:, 1] = np.where(slot[:, 1] == slot[:, 0], -1, slot[:, 1])
    weight = (rng.integers(-64, 64, slot.shape) / 64).astype(np.float32)

    def same():
        for a, b in zip(_run(gpu, slot, weight), _run(host, slot, weight), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

    for n in range(SLOTS):
        gpu.put(n, pack(_slices(n), torch.float32, transposed))
        host.put(n, pack(_slices(n), torch.float32, cpu.layout))
    same()
    for table, layout in ((gpu, transposed), (host, cpu.layout)):
        table.put(1, pack(_slices(7), torch.float32, layout))  # another adapter, where one was
        table.clear(2)
    same()


def test_nothing_of_an_adapter_stays_in_a_slot_that_stands_for_nothing():
    slots = _gpu()
    for n in (0, 1):
        slots.put(n, pack(_slices(n), torch.float32, transposed))
    kept = slots._weights[0].clone()
    slots.clear(1)
    slots.settle()
    assert int(slots._weights[1].count_nonzero() + slots.table[1].count_nonzero()) == 0
    assert slots.table[0].count_nonzero() > 0
    assert torch.equal(slots._weights[0], kept)


def test_a_step_before_any_route_changes_nothing():
    slots = _gpu()
    slots.put(0, pack(_slices(0), torch.float32, transposed))
    y = torch.ones(TOKENS, 32)
    slots.layers[0].add_lora_linear(y, torch.ones(TOKENS, 24))
    assert bool((y == 1).all())


def test_an_idle_step_launches_nothing_and_the_next_one_does(monkeypatch):
    slots, launched = _gpu(), []
    for name in ("shrink", "expand"):
        real = getattr(triton_kernels, name)
        grids = type("", (), {"__getitem__": lambda _, grid, real=real: launched.append(grid) or real[grid]})
        monkeypatch.setattr(triton_kernels, name, grids())
    slots.put(0, pack(_slices(0), torch.float32, transposed))
    some, none = np.zeros((TOKENS, 1), np.int32), np.zeros((0, 0), np.int32)
    for idle, count in ((False, 2), (True, 0), (False, 2)):
        table = none if idle else some
        slots.route(table, np.ones(table.shape, np.float32), idle=idle)
        y = torch.ones(TOKENS, 32)
        slots.layers[0].add_lora_linear(y, torch.ones(TOKENS, 24))
        assert len(launched) == count
        assert bool((y == 1).all()) == idle
        launched.clear()


def test_a_slot_has_room_for_the_largest_adapter_and_nothing_more():
    largest = [
        (torch.ones(RANK, inputs), torch.ones(out, RANK)) for inputs, outputs in LAYERS for out in outputs
    ]
    slots = _gpu()
    adapter = pack(largest, torch.float32, transposed)
    slots.put(SLOTS - 1, adapter)
    assert slots.nbytes == SLOTS * (adapter.nbytes + slots.slices * 3 * 8)


def test_what_a_device_cannot_do_is_refused():
    with pytest.raises(ConfigError, match="no kernels for 'xpu'"):
        kernels_for(torch.device("xpu"), torch.bfloat16)
    with pytest.raises(ConfigError, match="--dtype float32"):
        kernels_for(torch.device("cpu"), torch.float16)
    assert kernels_for(torch.device("cuda"), torch.float16).layout is transposed
