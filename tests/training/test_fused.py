"""Fused kernels against plain torch, by themselves and in a tiny Llama."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from vllm_mega.training import fused, fused_kernels

TYPES = (torch.float32, torch.bfloat16)
SIZES = ((1, 1), (1, 5), (3, 16), (7, 48), (5, 33), (67, 576))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def assert_same(dtype: torch.dtype, found: Callable, plain: Callable, *inputs: Tensor) -> None:
    """`found` computes as `plain` does in float64, forth and back."""
    results = []
    for function, kind in ((found, dtype), (plain, torch.float64)):
        given = [x.to(dtype).to(kind).requires_grad_() for x in inputs]
        out = function(*given)
        seen = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        grads = torch.autograd.grad(out, given, seen.to(dtype).to(kind), allow_unused=True)
        results.append([x for x in (out.detach(), *grads) if x is not None])
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for a, b in zip(*results, strict=True):
        assert a.dtype == dtype
        # Of numbers about 1: the gradient of a norm of one number is what cancels.
        atol = tolerance * max(1.0, float(b.abs().max()))
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=atol)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", SIZES)
def test_rms_norm(size: tuple[int, int], dtype: torch.dtype) -> None:
    weight = torch.rand(size[1]).to(dtype) + 0.5

    def plain(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight

    assert_same(dtype, lambda x: fused._RMSNorm.apply(x, weight, 1e-5), plain, torch.randn(1, *size) * 3)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", SIZES)
def test_swiglu(size: tuple[int, int], dtype: torch.dtype) -> None:
    gate, up = torch.randn(2, 1, *size) * 4
    assert_same(dtype, fused._SwiGLU.apply, lambda g, u: nn.functional.silu(g) * u, gate, up)
    # not contiguous, and what e^x cannot hold
    gate = torch.tensor([[-1e4, -90.0, -88.0], [0.0, 88.0, 1e4]]).T
    assert_same(dtype, fused._SwiGLU.apply, lambda g, u: nn.functional.silu(g) * u, gate, gate.sign())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("tokens", "size"), [(1, 2), (1, 12), (5, 64), (33, 20)])
def test_rotary(tokens: int, size: int, dtype: torch.dtype) -> None:
    cos, sin = torch.randn(2, 1, tokens, size).to(dtype)  # halves differ: nothing is taken for granted
    apply = modeling_llama.apply_rotary_pos_emb

    def both(function: Callable) -> Callable:
        return lambda q, k: torch.cat(function(q, k, cos.to(q.dtype), sin.to(q.dtype)), 1)

    q, k = torch.randn(1, tokens, 4, size), torch.randn(1, 2, tokens, size)
    assert_same(dtype, both(fused._rotary(apply)), both(apply), q.transpose(1, 2), k)
    assert fused._rotary(apply)(q.transpose(1, 2), k, cos.float(), sin.float())[0].grad_fn is None


def run(model: nn.Module, dtype: torch.dtype) -> list[Tensor]:
    """Logits, and gradients of all that is trained."""
    out = model(input_ids=torch.arange(1, 24)[None]).logits
    model.zero_grad()
    out.float().logsumexp(-1).sum().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.fixture(params=TYPES, ids=str)
def llama(request: pytest.FixtureRequest, tiny: Path) -> Iterator[LlamaForCausalLM]:
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=request.param)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("proj" in name)
    return model


def test_a_llama_computes_the_same(llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = llama.dtype
    # A trainer of another test may have patched the module for good.
    original = inspect.unwrap(modeling_llama.apply_rotary_pos_emb)
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", original)
    plain = run(llama, dtype)
    with fused.install(llama):
        patched = [name for name, module in llama.named_modules() if "forward" in vars(module)]
        assert len(patched) == 2 * 3 + 1 + 3
        assert modeling_llama.apply_rotary_pos_emb is not original
        fast = run(llama, dtype)
        with fused.install(llama):  # once is enough
            pass
        assert [name for name, module in llama.named_modules() if "forward" in vars(module)] == patched
        several = torch.arange(6).view(2, 3)  # rows side by side go the model's own way
        assert llama(input_ids=several).logits.shape[:2] == (2, 3)
    for a, b in zip(fast, plain, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        assert (a - b).norm() <= tolerance * b.norm()
    assert not [name for name, module in llama.named_modules() if "forward" in vars(module)]
    assert modeling_llama.apply_rotary_pos_emb is original
    assert all(torch.equal(a, b) for a, b in zip(run(llama, dtype), plain, strict=True))


def test_norms_of_another_kind_are_left_alone() -> None:
    gemma, llama = GemmaRMSNorm(48), LlamaRMSNorm(48)
    assert vars(gemma).get("eps") is not None, "Gemma's norm is not what this test thinks it is"
    model = nn.ModuleList([gemma, llama, LlamaRMSNorm(48).to("meta"), LlamaRMSNorm(48).half()])
    fused.install(model)
    assert ["forward" in vars(module) for module in model] == [False, True, False, False]


def test_a_norm_that_is_trained_goes_its_own_way() -> None:
    norm = LlamaRMSNorm(48)
    fused.install(norm)
    norm(torch.randn(2, 48)).sum().backward()
    assert norm.weight.grad is not None


def test_without_a_compiler_nothing_is_fused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    fused_kernels._library.cache_clear()
    norm = LlamaRMSNorm(48)
    try:
        with caplog.at_level(logging.WARNING):
            fused.install(norm)
            fused.install(norm)
    finally:
        fused_kernels._library.cache_clear()
    assert "forward" not in vars(norm)
    assert len(caplog.records) == 1
    assert "no-such-compiler" in caplog.text
