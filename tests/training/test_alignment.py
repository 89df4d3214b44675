from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.training.tiny import SETTINGS
from vllm_mega.training.compute.alignment import aligning, directions, set_units, start
from vllm_mega.training.compute.lora import LoraLinear, LoraStack
from vllm_mega.training.recipe.recipe import AlignmentRules

RULES = AlignmentRules()


def test_directions_are_the_right_singular_vectors() -> None:
    torch.manual_seed(0)
    x, dy = torch.randn(40, 9) * torch.tensor([9.0, 5.0, *[0.1] * 7]), torch.randn(40, 6)
    found = directions(x, dy, 2, seed=3, rules=RULES)
    wanted = torch.linalg.svd(dy.T @ x).Vh[:2]
    torch.testing.assert_close(found @ found.T, torch.eye(2), atol=1e-5, rtol=0)
    torch.testing.assert_close((found @ wanted.T).abs().diagonal(), torch.ones(2), atol=1e-2, rtol=0)
    assert torch.equal(found, directions(x, dy, 2, seed=3, rules=RULES))


def test_a_rank_beyond_the_layer_is_filled_with_zeros() -> None:
    found = directions(torch.randn(8, 3), torch.randn(8, 5), 6, seed=0, rules=RULES)
    assert found.shape == (6, 3)
    assert not found[3:].any()


def test_no_gradient_is_no_direction_and_no_error() -> None:
    assert torch.isfinite(directions(torch.zeros(4, 3), torch.zeros(4, 5), 2, seed=0, rules=RULES)).all()


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
    jobs = torch.tensor([0] * 5 + [1] * 3)
    stack.assign(jobs)
    x = torch.randn(8, lora.base.in_features)
    dy = torch.randn(8, lora.base.out_features)
    with aligning(stack, fresh=[0], seeds=[7, 8], rules=RULES):
        lora(x[None]).backward(dy[None])
    a, seen = lora.of(0)[0], x[:5] * lora.columns
    wanted = directions(seen, dy[:5], lora.rank, 7, RULES)[:4] * lora.columns  # five tokens have no more
    torch.testing.assert_close(a[:4] / a[:4].norm(), wanted / wanted.norm(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close((x[:5] @ a.T).square().mean(0).sqrt().mean(), torch.tensor(RULES.start))
    # B learns through the new A, in units of what the layer computes.
    size = lora.base(x[:5]).square().mean().sqrt()
    torch.testing.assert_close(lora.B.grad[: lora.rank], (x[:5] @ a.T).T @ dy[:5] * size)
    for name, tensor in stack.tensors(1).items():
        torch.testing.assert_close(tensor, kept[name])
    assert lora.witness is None


def test_units_follow_the_numbers_of_a_layer() -> None:
    """The same function with its input scaled by channel: A in units stays, and so does what a step does."""
    torch.manual_seed(0)
    x, scale = torch.randn(9, 6), torch.tensor([8.0, 0.125, 1.0, 3.0, 0.5, 2.0])
    plain, scaled = torch.nn.Linear(6, 4, bias=False), torch.nn.Linear(6, 4, bias=False)
    scaled.weight.data = plain.weight.data / scale
    dy = torch.randn(9, 4)
    steps = []
    for linear, seen in ((plain, x), (scaled, x * scale)):
        lora = LoraLinear(linear.requires_grad_(requires_grad=False), jobs=1, rank=2)
        lora.mask = torch.ones(9, 2)
        set_units(lora, 0, seen, scaling=1.0, rules=RULES)
        start(lora, 0, seen, dy, seed=0, rules=RULES)
        with torch.no_grad():
            lora.B += 0.3
        before = lora(seen[None])
        before.backward(dy[None])
        with torch.no_grad():
            for part in (lora.A, lora.B):
                part.sub_(0.01 * part.grad.sign())
        steps.append(lora(seen[None]) - before)
    torch.testing.assert_close(*steps)
