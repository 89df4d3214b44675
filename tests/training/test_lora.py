from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.training.tiny import SETTINGS
from vllm_mega.training.compute.lora import LoraLinear, LoraStack


@pytest.fixture
def model(tiny: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny).eval()


def test_each_token_meets_its_own_adapter() -> None:
    torch.manual_seed(0)
    lora = LoraLinear(torch.nn.Linear(5, 4), jobs=3, rank=2)
    with torch.no_grad():
        lora.A.normal_()
        lora.B.normal_()
    jobs = torch.tensor([0, 0, 2, 1, 2])
    lora.mask = 0.5 * torch.nn.functional.one_hot(jobs, 3).repeat_interleave(2, dim=1).float()
    x = torch.randn(5, 5)
    y = lora(x[None])[0]
    for t, job in enumerate(jobs.tolist()):
        a, b = lora.of(job)
        torch.testing.assert_close(y[t], x[t] @ (lora.base.weight + 0.5 * b @ a).T + lora.base.bias)


def test_gradients() -> None:
    torch.manual_seed(0)
    lora = LoraLinear(torch.nn.Linear(5, 4).double(), jobs=2, rank=2).double()
    lora.base.requires_grad_(requires_grad=False)
    lora.mask = torch.tensor([[2.0, 2.0, 0, 0], [0, 0, 2.0, 2.0], [0, 0, 2.0, 2.0]]).double()
    torch.nn.init.normal_(lora.A)
    torch.nn.init.normal_(lora.B)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    lora.reading.fill_(0.5)
    lora.writing[2:] = 3.0
    a, b = lora.A * lora.columns * lora.reading, lora.B * lora.writing
    plain = x @ lora.base.weight.T + lora.base.bias + (x @ a.T * lora.mask) @ b
    dy = torch.randn(3, 4, dtype=torch.float64)
    wanted = torch.autograd.grad(plain, (x, lora.A, lora.B), dy)
    found = torch.autograd.grad(lora(x[None])[0], (x, lora.A, lora.B), dy)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-6)


def test_jobs_are_reset_loaded_and_read_alone(model: Any) -> None:
    stack = LoraStack(model, SETTINGS, jobs=3)
    for job in range(3):
        stack.reset(job, seed=job)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(1.0)
    kept = [stack.tensors(job) for job in range(3)]
    stack.reset(1, seed=1)
    assert same(stack.tensors(0), kept[0])
    assert not same(stack.tensors(1), kept[1])
    assert all(not tensor.any() for name, tensor in stack.tensors(1).items() if "lora_B" in name)
    first = stack.tensors(1)
    stack.reset(1, seed=5)
    assert not same(stack.tensors(1), first)
    stack.load(1, kept[2])
    assert same(stack.tensors(1), kept[2])
    assert same(stack.tensors(2), kept[2])


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_without_jobs_the_model_is_untouched(model: Any) -> None:
    ids = torch.arange(6)[None]
    before = model(ids).logits
    stack = LoraStack(model, SETTINGS, jobs=2)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(1.0)
    stack.assign(torch.ones(6, dtype=torch.int64))
    assert not torch.equal(model(ids).logits, before)
    stack.assign(None)
    torch.testing.assert_close(model(ids).logits, before, rtol=0, atol=0)


def test_scaling_comes_from_alpha(model: Any) -> None:
    stack = LoraStack(model, msgspec.structs.replace(SETTINGS, alpha=4.0), jobs=2)
    stack.assign(torch.tensor([1, 0]))
    mask = next(iter(stack.modules.values())).mask
    assert mask is not None
    assert mask.tolist() == [[0.0] * 8 + [0.5] * 8, [0.5] * 8 + [0.0] * 8]
