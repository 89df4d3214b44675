"""The Triton kernels on a GPU: the shapes of an 8B model, CUDA graphs, compiled graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.kernels.mixtures import DEVICE, Layer, check, layer_of, plan_of, routing, run
from vllm_mega.kernels import triton as kernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cpu", reason="no GPU"),
]
MODULES = {"qkv": (4096, (4096, 1024, 1024)), "gate_up": (4096, (14336, 14336)), "down": (14336, (4096,))}
"""Of Llama-3.1-8B: input features, output features of each slice."""
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-4, torch.bfloat16: 3e-3}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", [1, 16, 64])
@pytest.mark.parametrize("module", MODULES)
def test_decode_of_an_8b_model(module, tokens, dtype):
    inputs, outs = MODULES[module]
    layer = layer_of([16, 4, 1, 16, 8], inputs, outs, dtype=dtype)
    slot, weight = routing("decode", tokens, 4, 5)
    slot[0], weight[0] = (0, 1, -1, 3), (0.5, -0.25, 1, 0.125)
    check(layer, slot, weight, tolerance=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [1, 8])
def test_prompts_beside_tokens_with_holes_in_a_request(width, dtype):
    layer = layer_of([16] * 9, 4096, (4096, 1024, 1024), dtype=dtype)
    slot, weight = routing("mixed", 200, width, 9)
    slot[40:60] = -1  # inside a request
    check(layer, slot, weight, rows=56, tolerance=TOLERANCE[dtype])


def test_few_rows_are_split_sixteen_times():
    assert kernels.splits(3, 4096, kernels.SHRINK_FEW) == 16
    layer = layer_of([4, 4], 4096, (512, 512, 512), max_rank=4)
    plan = plan_of(layer, 1)
    for _ in range(3):
        slot = np.array([[0, 1]], dtype=np.int32)
        check(layer, slot, np.array([[0.5, 0.5]], dtype=np.float32), plan=plan)
    assert not plan.counters.any()


def test_a_token_has_the_same_result_in_every_batch_of_the_same_split():
    layer = layer_of([16, 3, 9], 4096, (1024,), dtype=torch.bfloat16)
    slot, weight = routing("mixed", 64, 3, 3)
    y, x = layer.tensors(64)
    together = run(layer, y, x, slot, weight)
    again = run(layer, y, x, slot, weight)
    assert torch.equal(together, again)
    turned = np.arange(63, -1, -1)
    other = run(layer, y[turned], x[turned], slot[turned], weight[turned])
    assert torch.equal(together[turned], other)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tokens", [16, 64, 100])
def test_what_others_use_changes_no_bit(tokens, dtype):
    layer = layer_of([16, 3, 9, 16, 16, 2, 16, 16], 4096, (1024, 256), dtype=dtype)
    slot, weight = routing("decode", tokens, 3, 8)
    slot[0], weight[0] = (1, 4, 6), (0.5, -0.25, 1)
    y, x = layer.tensors(tokens)
    together = run(layer, y, x, slot, weight)
    slot[1:] = -1
    alone = run(layer, y, x, slot, weight)
    assert torch.equal(alone[0], together[0])
    assert torch.equal(alone[1:], y[1:])


def test_a_step_of_many_blocks_and_more_adapters_than_a_tile():
    layer = layer_of([16] * 70, 1024, (512, 128), dtype=torch.bfloat16)
    slot, weight = routing("decode", 300, 4, 70)
    check(layer, slot, weight, rows=20, tolerance=TOLERANCE[torch.bfloat16])


def _steps(layer: Layer, rows: int):
    """Steps of other kinds and other numbers of tokens: slot, weight, y, x, what is expected."""
    for seed, (kind, tokens) in enumerate((("mixed", rows), ("decode", 5), ("prefill", rows - 3))):
        slot, weight = routing(kind, tokens, 3, 3, seed=seed)
        y, x = layer.tensors(rows, seed)
        yield slot, weight, y, x, layer.expected(y, x, slot, weight)


def test_a_cuda_graph_reads_the_plan_of_the_moment():
    layer = layer_of([16, 3, 9], 4096, (1024, 256))
    plan, table = plan_of(layer, 64), layer.table
    out, inputs = (tensor.clone() for tensor in layer.tensors(64))
    kernels.add_mixture(out, inputs, table, layer.outs, plan)  # compiled before it is recorded
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels.add_mixture(out, inputs, table, layer.outs, plan)
    for slot, weight, y, x, want in _steps(layer, 64):
        plan.update(slot, weight, layer.chunks)
        out.copy_(y)
        inputs.copy_(x)
        graph.replay()
        torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-4)


def test_a_graph_that_inductor_compiled_reads_the_plan_of_the_moment():
    layer = layer_of([16, 3, 9], 4096, (1024, 256))
    plan, table = plan_of(layer, 64), layer.table

    def forward(y, x):
        out = y * 2
        kernels.add_mixture(out, x, table, layer.outs, plan)
        return out - y

    compiled = torch.compile(forward, fullgraph=True)
    for step, (slot, weight, y, x, want) in enumerate(_steps(layer, 64)):
        plan.update(slot, weight, layer.chunks)
        with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
            torch.testing.assert_close(compiled(y, x), want, rtol=1e-5, atol=1e-4)
