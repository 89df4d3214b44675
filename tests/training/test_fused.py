"""Fused kernels against plain torch, by themselves and in small models; wrong ones are not let in."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PretrainedConfig
from transformers.models.llama import modeling_llama

from vllm_mega.training.compute import fused, fused_kernels
from vllm_mega.training.compute.model import untouched_copy

IDS = torch.arange(5, 40)
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
    weight = torch.rand(size[1]) + 0.5

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

    def plain(q: Tensor, k: Tensor) -> Tensor:
        return torch.cat(apply(q, k, cos.to(q.dtype), sin.to(q.dtype)), 1)

    def fast(q: Tensor, k: Tensor) -> Tensor:
        return torch.cat(fused._turned(cos, sin, q, k), 1)

    q, k = torch.randn(1, tokens, 4, size), torch.randn(1, 2, tokens, size)
    assert_same(dtype, fast, plain, q.transpose(1, 2), k)


def run(model: nn.Module) -> list[Tensor]:
    """Logits, and gradients of all that is trained."""
    out = model(input_ids=torch.arange(1, 24)[None]).logits
    model.zero_grad()
    out.float().logsumexp(-1).sum().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def models(config: PretrainedConfig, dtype: torch.dtype) -> tuple[Any, Any]:
    """A small random model, and the same untouched; norms are frozen and no two channels weigh the same."""
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("proj" in name)
        if "norm" in name:
            nn.init.uniform_(parameter, -0.5, 0.5 if config.model_type.startswith("gemma") else 2.0)
    return model, untouched_copy(model)


def llama() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=64, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.1,
    )  # fmt: skip


def gemma() -> Gemma3TextConfig:
    return Gemma3TextConfig(
        vocab_size=64, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, initializer_range=0.1,
    )  # fmt: skip


def fused_names(model: nn.Module) -> dict[str, int]:
    """How many modules of each class compute with a kernel."""
    names = [type(m).__name__ for m in model.modules() if "forward" in vars(m)]
    return dict(sorted(Counter(names).items()))


ALL_OF_LLAMA = {"LlamaAttention": 3, "LlamaMLP": 3, "LlamaRMSNorm": 7}
ALL_OF_GEMMA = {"Gemma3Attention": 2, "Gemma3RMSNorm": 2 * 6 + 1}  # its MLP is not gated by SiLU


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("config", "kernels"), [(llama(), ALL_OF_LLAMA), (gemma(), ALL_OF_GEMMA)])
def test_a_model_computes_the_same(
    config: PretrainedConfig, kernels: dict[str, int], dtype: torch.dtype
) -> None:
    model, untouched = models(config, dtype)
    original = modeling_llama.apply_rotary_pos_emb
    plain = run(model)
    with fused.install(model, untouched, IDS):
        assert fused_names(model) == kernels
        assert not fused_names(untouched)
        assert modeling_llama.apply_rotary_pos_emb is original
        fast = run(model)
        with fused.install(model, untouched, IDS):  # once is enough
            pass
        assert fused_names(model) == kernels
        several = torch.arange(6).view(2, 3)  # rows side by side go the model's own way
        assert model(input_ids=several).logits.shape[:2] == (2, 3)
    for a, b in zip(fast, plain, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        assert (a - b).norm() <= tolerance * b.norm()
    assert not fused_names(model)
    assert all(torch.equal(a, b) for a, b in zip(run(model), plain, strict=True))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("direction", ["forth", "back"])
@pytest.mark.parametrize(
    ("kernel", "gone"),
    [("rms_norm", "LlamaRMSNorm"), ("swiglu", "LlamaMLP"), ("rotary", "LlamaAttention")],
)
def test_a_kernel_that_is_wrong_in_one_channel_stands_in_nowhere(
    kernel: str, gone: str, direction: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where it is not the largest: what a tolerance of the largest element would let pass."""
    backward = direction == "back"
    name = f"{kernel}_grad" if backward and kernel != "rotary" else kernel
    right = getattr(fused_kernels, name)

    def wrong(*args: Any, **kwargs: Any) -> Any:
        out = right(*args, **kwargs)
        if kernel != "rotary" or bool(kwargs.get("inverse")) == backward:
            (out if isinstance(out, Tensor) else out[0])[..., 3] *= 1.05
        return out

    monkeypatch.setattr(fused_kernels, name, wrong)
    model, untouched = models(llama(), dtype)
    fused.install(model, untouched, IDS)
    assert fused_names(model) == {name: n for name, n in ALL_OF_LLAMA.items() if name != gone}


def test_a_norm_without_its_one_stands_in_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is given Gemma's weights as they are, where the module multiplies by 1 + w."""
    right = fused._RMSNorm.apply
    monkeypatch.setattr(fused._RMSNorm, "apply", lambda x, scale, eps: right(x, scale - 1.0, eps))
    model, untouched = models(gemma(), torch.bfloat16)
    fused.install(model, untouched, IDS)
    assert "Gemma3RMSNorm" not in fused_names(model)


def test_a_norm_that_is_trained_and_other_types_go_their_own_way() -> None:
    model, untouched = models(llama(), torch.float32)
    model.model.norm.weight.requires_grad_()
    fused.install(model, untouched, IDS)
    assert fused_names(model)["LlamaRMSNorm"] == 6
    model, untouched = models(llama(), torch.float16)
    fused.install(model, untouched, IDS)
    assert not fused_names(model)


def test_without_a_compiler_nothing_is_fused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    fused_kernels._library.cache_clear()
    model, untouched = models(llama(), torch.float32)
    try:
        with caplog.at_level(logging.WARNING):
            fused.install(model, untouched, IDS)
            fused.install(model, untouched, IDS)
    finally:
        fused_kernels._library.cache_clear()
    assert not fused_names(model)
    assert len(caplog.records) == 1
    assert "no-such-compiler" in caplog.text
