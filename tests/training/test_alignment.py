from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.training.tiny import SETTINGS
from vllm_mega.training.alignment import aligning, directions
from vllm_mega.training.lora import LoraLinear, LoraStack


def test_directions_are_the_right_singular_vectors() -> None:
    torch.manual_seed(0)
    x, dy = torch.randn(40, 9) * torch.tensor([9.0, 5.0, *[0.1] * 7]), torch.randn(40, 6)
    found = directions(x, dy, 2, seed=3)
    wanted = torch.linalg.svd(dy.T @ x).Vh[:2]
    torch.testing.assert_close(found @ found.T, torch.eye(2), atol=1e-5, rtol=0)
    torch.testing.assert_close((found @ wanted.T).abs().diagonal(), torch.ones(2), atol=1e-2, rtol=0)
    assert torch.equal(found, directions(x, dy, 2, seed=3))


def test_a_rank_beyond_the_layer_is_filled_with_zeros() -> None:
    found = directions(torch.randn(8, 3), torch.randn(8, 5), 6, seed=0)
    assert found.shape == (6, 3)
    assert not found[3:].any()


def test_no_gradient_is_no_direction_and_no_error() -> None:
    assert torch.isfinite(directions(torch.zeros(4, 3), torch.zeros(4, 5), 2, seed=0)).all()


def test_fresh_jobs_are_turned_before_the_gradients_are_taken() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    stack = LoraStack(LlamaForCausalLM(config), SETTINGS, jobs=2)
    for job in range(2):
        stack.reset(job, 1)
    kept = stack.tensors(1)
    lora: LoraLinear = next(iter(stack.modules.values()))
    before = lora.of(0)[0].clone()
    jobs = torch.tensor([0] * 5 + [1] * 3)
    stack.assign(jobs)
    x = torch.randn(8, lora.base.in_features)
    dy = torch.randn(8, lora.base.out_features)
    with aligning(stack, jobs, fresh=[0], seeds=[7, 8]):
        lora(x[None]).backward(dy[None])
    a = lora.of(0)[0]
    torch.testing.assert_close(a, directions(x[:5], dy[:5], lora.rank, 7))
    assert not torch.equal(a, before)
    # B learns through the new A.
    torch.testing.assert_close(lora.B.grad[: lora.rank], (x[:5] @ a.T).T @ dy[:5])
    assert all(torch.equal(tensor, kept[name]) for name, tensor in stack.tensors(1).items())
    assert lora.witness is None
