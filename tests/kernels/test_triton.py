"""The Triton kernels against the reference: compiled where there is a GPU, else interpreted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.interpreted import interpret
from tests.kernels.mixtures import DEVICE, check, layer_of, plan_of, routing, run
from vllm_mega.engine.routing import NULL_SLOT
from vllm_mega.kernels import triton as kernels
from vllm_mega.kernels import triton_kernels, triton_plan


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    """Kernels that run on the CPU, if there is nothing else."""
    if DEVICE == "cpu":
        interpret(monkeypatch, vars(triton_kernels))


@pytest.mark.parametrize("kind", ["decode", "prefill", "mixed"])
@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("outs", [(40,), (48, 16), (40, 136, 7)])
def test_equals_the_reference(kind, width, outs):
    layer = layer_of([1, 16, 3, 8, 5], 72, outs)
    check(layer, *routing(kind, 13 if kind == "decode" else 45, width, 5))


@pytest.mark.parametrize("inputs", [1, 127, 128, 300])
def test_any_number_of_input_features(inputs):
    layer = layer_of([2, 9], inputs, (129,), max_rank=9)
    check(layer, *routing("mixed", 20, 2, 2))


def test_a_mixture_wider_than_a_tile_of_ranks():
    layer = layer_of([40, 7, 33, 1, 40], 24, (8, 16), max_rank=40)
    slot = np.array([[0, 1, 2, 4], [4, 2, 3, 0]], dtype=np.int32)
    check(layer, slot, np.full(slot.shape, 0.5, dtype=np.float32))


@pytest.mark.parametrize("tokens", [1, 15, 64, 65])
def test_a_block_of_more_adapters_than_a_tile_has_rows_for(tokens):
    layer = layer_of([1 + n % 3 for n in range(70)], 16, (8,), max_rank=3)
    slot = np.arange(tokens * 2, dtype=np.int32).reshape(tokens, 2) % 70
    check(layer, slot, np.full(slot.shape, 0.5, dtype=np.float32))


def test_a_mixture_may_name_an_adapter_twice():
    layer = layer_of([4, 2], 24, (16,))
    slot = np.array([[0, 0, 1], [1, 0, 1]], dtype=np.int32)
    weight = np.array([[0.5, 0.25, 1], [1, 1, -1]], dtype=np.float32)
    check(layer, slot, weight, tolerance=1e-5)


def test_a_slot_may_leave_slices_alone():
    layer = layer_of([(4, 0), (0, 3), (0, 0), (2, 5)], 24, (16, 24))
    check(layer, *routing("decode", 12, 3, 4))
    slot, weight = np.array([[2], [0]], dtype=np.int32), np.ones((2, 1), dtype=np.float32)
    y, x = layer.tensors(2)
    y[:] = -0.0
    out = run(layer, y, x, slot, weight)
    assert torch.signbit(out[0]).all()
    assert torch.signbit(out[1, 16:]).all(), "not even -0.0 becomes 0.0"
    assert (out[1, :16] != 0).all()


def test_a_step_without_any_mixture():
    layer = layer_of([4], 24, (16,))
    slot = np.full((5, 2), NULL_SLOT, dtype=np.int32)
    check(layer, slot, np.ones(slot.shape, dtype=np.float32), rows=2)
    check(layer, slot[:, :0], np.ones((5, 0), dtype=np.float32))
    check(layer, slot[:0], np.ones((0, 2), dtype=np.float32), rows=2)


def test_rows_behind_the_tokens_are_untouched_and_a_smaller_step_forgets_the_larger():
    layer = layer_of([1, 6, 3], 100, (24, 8))
    plan = plan_of(layer, 200)
    assert kernels.splits(60, 100, kernels.SHRINK_FLOAT32) == 2, "parts are added up"
    buffers = [t.data_ptr() for t in plan.tensors]
    check(layer, *routing("mixed", 200, 3, 3), plan=plan)
    check(layer, *routing("decode", 7, 2, 3), rows=193, plan=plan)
    check(layer, *routing("prefill", 3, 1, 3), rows=61, plan=plan)
    assert [t.data_ptr() for t in plan.tensors] == buffers
    assert not plan.counters.any()


def test_fewer_rows_than_tokens_are_never_overrun():
    layer = layer_of([4], 24, (16,))
    slot, weight = np.zeros((9, 1), dtype=np.int32), np.ones((9, 1), dtype=np.float32)
    plan = plan_of(layer, 9)
    plan.update(slot, weight, layer.chunks)
    y, x = layer.tensors(9)
    out = y.clone()
    kernels.add_mixture(out[:4], x[:4], layer.table, layer.outs, plan)
    torch.testing.assert_close(out[:4], layer.expected(y, x, slot, weight)[:4])
    assert torch.equal(out[4:], y[4:])


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # the interpreter's NumPy
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_token_is_nobody_elses_problem(bad):
    layer = layer_of([4, 5, 3], 40, (24, 8))
    slot = np.array([[0, 2], [2, -1], [1, -1], [-1, -1], [2, 0]], dtype=np.int32)
    weight = np.ones(slot.shape, dtype=np.float32)
    y, x = layer.tensors(5)
    want = run(layer, y, x, slot, weight)
    plan = plan_of(layer, 5)
    plan.hidden[:], plan.parts[:] = bad, bad  # what an earlier step left
    x[0] = bad
    out = run(layer, y, x, slot, weight, plan)
    assert torch.equal(out[1:], want[1:]), "tokens of one block"
    assert not torch.isfinite(out[0]).any()
    x[3] = bad
    assert torch.equal(run(layer, y, x, slot, weight)[3], y[3]), "its result is the base model's"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_no_token_of_a_block_uses_is_not_read(bad):
    layer = layer_of([4, 5], 40, (24, 8))
    slot = np.array([[0]] * 64 + [[1]] * 3, dtype=np.int32)
    weight = np.ones(slot.shape, dtype=np.float32)
    y, x = layer.tensors(67)
    want = run(layer, y, x, slot, weight)
    for a, b in layer.pairs[1]:
        a[:], b[:] = bad, bad
    with np.errstate(invalid="ignore"):
        out = run(layer, y, x, slot, weight)
    assert torch.equal(out[:64], want[:64])
    assert not torch.isfinite(out[64:]).any()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 3e-3), (torch.float16, 4e-4)])
def test_half_precision_rounds_once(dtype, tolerance):
    layer = layer_of([1, 16, 7], 72, (40, 24), dtype=dtype)
    slot, weight = routing("mixed", 40, 3, 3)
    out = check(layer, slot, weight, tolerance=tolerance)
    y, x = layer.tensors(40)
    want = layer.expected(y, x, slot, weight).to(dtype)
    if dtype == torch.float16 or DEVICE == "cuda":  # the interpreter cuts bfloat16 off where a GPU rounds
        assert (out == want).float().mean() > 0.98, "equal to the rounded float32 result, but for ties"


@pytest.mark.parametrize("kind", ["decode", "mixed"])
def test_batched_equals_alone(kind):
    layer = layer_of([1, 16, 3], 300, (40, 24))
    slot, weight = routing(kind, 12, 3, 3)
    y, x = layer.tensors(12)
    together = run(layer, y, x, slot, weight)
    for t in range(12):
        one = slice(t, t + 1)
        alone = run(layer, y[one], x[one], slot[one], weight[one])
        torch.testing.assert_close(alone, together[one], rtol=1e-5, atol=1e-5)


def test_rows_may_be_parts_of_wider_ones():
    layer = layer_of([4, 2], 24, (16, 8))
    slot, weight = routing("mixed", 9, 2, 2)
    y, x = layer.tensors(9)
    wide_y, wide_x = torch.randn(9, 40, device=DEVICE), torch.randn(9, 31, device=DEVICE)
    wide_y[:, 5:29], wide_x[:, 3:27] = y, x
    before, plan = wide_y.clone(), plan_of(layer, 9)
    plan.update(slot, weight, layer.chunks)
    kernels.add_mixture(wide_y[:, 5:29], wide_x[:, 3:27], layer.table, layer.outs, plan)
    torch.testing.assert_close(wide_y[:, 5:29], layer.expected(y, x, slot, weight))
    assert torch.equal(wide_y[:, :5], before[:, :5])
    assert torch.equal(wide_y[:, 29:], before[:, 29:])


def test_a_compiled_graph_reads_the_plan_of_the_moment():
    layer = layer_of([4, 2], 24, (16, 8))
    plan, table = plan_of(layer, 9), layer.table

    def forward(y, x):
        out = y * 2
        kernels.add_mixture(out, x, table, layer.outs, plan)
        return out + 1

    compiled = torch.compile(forward, backend="aot_eager", fullgraph=True)
    y, x = layer.tensors(9)
    for step, kind in enumerate(("mixed", "decode", "prefill")):
        slot, weight = routing(kind, 9 - step, 2, 2)
        plan.update(slot, weight, layer.chunks)
        with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
            torch.testing.assert_close(compiled(y, x), layer.expected(y * 2, x, slot, weight) + 1)


def test_the_plan_names_a_blocks_adapters_by_units_of_their_rank():
    slot = np.array([[2, 0]] * 63 + [[-1, 1]] * 2 + [[2, 2]] + [[3, 1]], dtype=np.int32)
    weight = np.full(slot.shape, 0.5, dtype=np.float32)
    weight[1, 1] = 0
    starts, units, weights = triton_plan.step_units(slot, weight, np.array([1, 2, 3, 0], dtype=np.int32))
    assert starts.tolist() == [0, 6, 11]
    named = [0, 1 << 16, 1 << 16 | 1, 2 << 16, 2 << 16 | 1, 2 << 16 | 2]
    assert units.tolist() == named + named[1:]
    assert weights[0].tolist() == [0.5, 0] + [0.5] * 61 + [0]
    assert weights[1].tolist() == weights[2].tolist() == [0] * 63 + [0.5]
    assert weights[3].tolist() == weights[5].tolist() == [0.5] * 63 + [0]
    assert weights[6, :3].tolist() == [0.5, 0, 0.5]
    assert weights[8, :3].tolist() == [0, 1, 0], "one adapter twice"
    assert weights.dtype == np.float32


def test_a_step_goes_to_the_device_in_one_copy_and_ends_in_blocks_without_units():
    plan = triton_plan.Plan(triton_plan.Sizes(200, 3, 16, 1), torch.float32, "cpu")
    chunks = np.array([1, 1, 1], dtype=np.int32)
    plan.update(np.array([[0, 1]] * 150, dtype=np.int32), np.ones((150, 2), dtype=np.float32), chunks)
    assert plan.starts.tolist() == [0, 2, 4, 6, 6]
    plan.update(np.array([[2]], dtype=np.int32), np.full((1, 1), 0.5, dtype=np.float32), chunks)
    assert plan.starts.tolist() == [0, 1, 1, 1, 1]
    assert plan.records[0, 0] == 2 << 16
    assert plan.records[0, 1:].view(torch.float32).tolist() == [0.5] + [0] * 63


def test_what_is_launched_depends_on_rows_and_constants_only(monkeypatch):
    launched = []

    class Recorder:
        def __getitem__(self, grid):
            return lambda *args, **constants: launched.append((grid, args, constants))

    for name in ("shrink", "expand"):
        monkeypatch.setattr(triton_kernels, name, Recorder())
    layer = layer_of([4, 2], 24, (16, 8))
    plan, table, (y, x) = plan_of(layer, 64), layer.table, layer.tensors(64)
    for kind, tokens, width in (("decode", 3, 1), ("prefill", 64, 2), ("mixed", 60, 2)):
        plan.update(*routing(kind, tokens, width, 2), layer.chunks)
        kernels.add_mixture(y, x, table, layer.outs, plan)
    calls = [
        (grid, [a.data_ptr() if torch.is_tensor(a) else a for a in args], constants)
        for grid, args, constants in launched
    ]
    assert all(one == other for one, other in pairwise(calls[::2]))
    assert all(one == other for one, other in pairwise(calls[1::2]))


def test_scratch_is_large_enough_for_every_number_of_rows():
    for sizes in (triton_plan.Sizes(600, 5, 40, 3), triton_plan.Sizes(600, 40, 16, 3, requests=4, width=3)):
        plan = triton_plan.Plan(sizes, torch.bfloat16, "cpu")
        for rows in range(1, 601):
            tile, _ = kernels.tiles(rows, torch.bfloat16)
            split, blocks = kernels.splits(rows, 1 << 20, tile), -(-rows // triton_plan.BLOCK)
            if split > 1:
                assert split * sizes.numbers(blocks) <= len(plan.parts)
                assert sizes.numbers(blocks) // triton_plan.UNIT**2 <= len(plan.counters)
    assert kernels.splits(1, 4096, kernels.SHRINK_FEW) == 16


def test_a_plan_that_knows_the_requests_is_smaller_and_still_holds_the_worst_step():
    sizes = triton_plan.Sizes(256, 40, 16, 1, requests=4, width=3)
    plan = triton_plan.Plan(sizes, torch.float32, "cpu")
    assert sizes.units(4) == 24 < triton_plan.Sizes(256, 40, 16, 1).units(4) == 160
    slot = np.repeat(np.arange(12, dtype=np.int32).reshape(4, 3), [63, 66, 66, 61], axis=0)
    plan.update(slot, np.ones(slot.shape, dtype=np.float32), np.ones(40, dtype=np.int32))
    assert int(plan.starts[-1]) == 21


def test_what_does_not_fit_is_refused():
    chunks = np.ones(3, dtype=np.int32)
    plan = triton_plan.Plan(triton_plan.Sizes(4, 3, 8, 2, requests=1, width=1), torch.float32, "cpu")
    for slot in (np.zeros((5, 1)), np.array([[0], [1], [2]])):
        with pytest.raises(ValueError, match="do not fit a plan"):
            plan.update(slot.astype(np.int32), np.ones(slot.shape, dtype=np.float32), chunks)
    a, b = torch.zeros(4, 16), torch.zeros(4, 8)
    assert kernels.entry(a, b, 4) == (a.data_ptr(), b.data_ptr(), 4)
    for bad in (
        (a, b, 3),
        (a, b[:3], 8),
        (a.half(), b, 8),
        (a, torch.zeros(8, 4).T, 8),
        (a.view(-1)[1:33].view(2, 16), b[:2], 8),
    ):
        with pytest.raises(ValueError, match=r"must be|multiple of"):
            kernels.entry(*bad)
    table = torch.zeros(1, 2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="do not fit together"):
        kernels.add_mixture(torch.zeros(4, 8), torch.zeros(4, 16), table, (4, 5), plan)
    for y, x in ((torch.zeros(4, 8), torch.zeros(4, 16).half()), (torch.zeros(4, 8).half(),) * 2):
        with pytest.raises(ValueError, match="all must be"):
            kernels.add_mixture(y, x, table, (4, 4), plan)
    with pytest.raises(ValueError, match="room"):
        kernels.add_mixture(torch.zeros(400, 8), torch.zeros(400, 16), table, (4, 4), plan)
    with pytest.raises(ValueError, match="room"):
        kernels.add_mixture(
            torch.zeros(4, 12), torch.zeros(4, 16), torch.zeros(1, 3, 3).long(), (4,) * 3, plan
        )
