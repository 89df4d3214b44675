"""Routing tables."""

from __future__ import annotations

import numpy as np
import pytest

from vllm_mega.engine.routing import NULL_SLOT, routing_table, token_ids
from vllm_mega.engine.slots.base import Sizes
from vllm_mega.engine.slots.cpu import CpuSlots
from vllm_mega.kernels import cpu, triton_plan


def test_every_token_gets_the_route_of_its_request():
    routes = {7: ((2, 0.5), (0, 0.25)), 9: ((1, 1.0),)}
    slot, weight = routing_table([7, 7, 0, 9], routes)
    assert slot.tolist() == [[2, 0], [2, 0], [NULL_SLOT, NULL_SLOT], [1, NULL_SLOT]]
    assert weight.tolist() == [[0.5, 0.25], [0.5, 0.25], [0, 0], [1, 0]]


def test_a_batch_without_adapters_has_no_columns():
    slot, weight = routing_table([0, 0, 0], {})
    assert slot.shape == weight.shape == (3, 0)


def test_a_token_without_a_route_is_an_error_and_not_the_base_model():
    with pytest.raises(KeyError):
        routing_table([0, 5], {4: ((0, 1.0),)})


def started_table(start: int, tokens: int = 96):
    """The routing table of a request's first tokens, whose mixture of two acts from `start` on."""
    row = (np.array([n]) for n in (7, 0, tokens, start))
    return routing_table(token_ids(*row).tolist(), {7: ((2, 0.5), (0, 0.25))})


@pytest.mark.parametrize("start", [0, 1, 32, 40, 95])
def test_no_kernel_works_for_tokens_before_start(start: int):
    table = started_table(start)
    plan = cpu.Plan(96, slots=4)
    plan.update(*table)
    tiles = int(plan.head[0])
    _, _, entry, token = (array.numpy() for array in plan.arrays)
    entries = int(entry[int(plan.arrays[0][tiles])])
    assert sorted(token[:entries].tolist()) == sorted([*range(start, 96)] * 2)

    starts, units, weights = triton_plan.step_units(*table, np.ones(4, np.int32))
    block = np.repeat(np.arange(2), np.diff(starts))
    assert len(units) == 2 * (2 if start < 64 else 1)
    for s, w in ((2, 0.5), (0, 0.25)):
        mine = units >> 16 == s
        given = np.zeros((2, 64))
        given[block[mine]] = weights[mine]
        assert given.ravel().tolist() == [0] * start + [w] * (96 - start) + [0] * 32


def test_a_step_before_start_asks_no_layer():
    slots = CpuSlots([(16, (16,))], Sizes(slots=4, tokens=96, requests=1, rank=4))
    slots.route(*started_table(96))
    assert (int(slots.plan.head[0]), slots.plan.used.tolist()) == (0, [])
    assert not any(layer.active for layer in slots.layers)
