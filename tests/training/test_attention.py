"""Attention over packed rows against a dense softmax in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vllm_mega.errors import ModelError
from vllm_mega.training.compute import attention, fused_attention, fused_kernels
from vllm_mega.training.compute.packing import Pack, pack, pool
from vllm_mega.training.recipe import segments
from vllm_mega.training.recipe.encoding import Encoded


class Written(TorchDispatchMode):
    """Counts operations that are no views."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not (func.is_view or func.namespace != "aten")
        return func(*args, **(kwargs or {}))


def encoded(prompt: list[int], answer: int) -> Encoded:
    return Encoded(prompt, list(range(answer)), [1.0] * answer)


def row(kind: str, *, together: bool = False) -> Pack:
    """Two adapters; their examples are of different lengths."""
    start = list(range(100, 109)) if kind == "prefix" else []
    ends = ([1, 2, 3], [4] * 20, [5, 6, 7], [8])
    pools = [pool([encoded(start + end, 1 + n) for n, end in enumerate(ends)]) for _ in range(2)]
    if kind == "one token":
        return pack([pool([encoded([1], 1)])], [0], [0], [[0]])
    return pack(pools, [0, 1], [0, len(pools[0].ids)], [[0, 1, 2, 3], [3, 1]], together=together)


def visible(packed: Pack, window: int | None) -> Tensor:
    """bool [T, T]: who sees whom; within an adapter's conversations, positions tell distances."""
    seen = torch.zeros(len(packed.source), len(packed.source), dtype=torch.bool)
    for one in packed.segments:
        segments, width, keys = one.mask.shape
        queries, looked = one.queries.view(segments, width), one.keys.view(segments, keys)
        real = torch.zeros(segments * width, dtype=torch.bool).index_fill_(0, one.rows, value=True)
        for e, q in real.view(segments, width).nonzero().tolist():
            seen[queries[e, q], looked[e][one.mask[e, q] == 0]] = True
    if window is not None:
        seen &= packed.positions[:, None] - packed.positions < window
    return seen


def dense(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scaling: float, softcap: float | None) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~seen, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("kernels", ["ours", "none", "fused", "fused together"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["prefix", "no prefix", "one token"])
@pytest.mark.parametrize("size", [12, 64])
@pytest.mark.parametrize(
    ("window", "softcap"),
    [(None, None), (5, None), (12, 0.8), (64, None)],
    ids=["full", "5", "12 capped", "64"],
)
def test_packed_is_dense(
    size: int, kind: str, dtype: torch.dtype, kernels: str, window: int | None, softcap: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if kernels != "ours":
        monkeypatch.setattr(fused_kernels, "usable", lambda *_: False)
    if "fused" in kernels:
        monkeypatch.setattr(fused_attention, "usable", lambda _, softcap: softcap is None)
    torch.manual_seed(0)
    together = kernels == "fused together"
    packed = row(kind, together=together)
    tokens = len(packed.source)
    seen = visible(packed, window)
    assert torch.equal(seen, visible(row(kind), window))
    assert (len(packed.segments) > 1) == (kind != "one token" and not together)
    assert seen.diagonal().all()
    # Views of what the projections write, and one that is no such view.
    inputs = [torch.randn(1, tokens, heads, size).transpose(1, 2) for heads in (6, 2)]
    inputs.append(torch.randn(1, 2, tokens, size))
    found, expected = [], []
    for results, kind_ in ((found, dtype), (expected, torch.float64)):
        q, k, v = (x.to(dtype).to(kind_).requires_grad_() for x in inputs)
        if kind_ == torch.float64:
            out = dense(q, k, v, seen, 0.3, softcap)
        else:
            with attention.attending(packed.segments):
                out, _ = attention.packed_attention(
                    None, q, k, v, None, scaling=0.3, sliding_window=window, softcap=softcap
                )
        up = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        results += [out.detach(), *torch.autograd.grad(out, (q, k, v), up.to(kind_))]
    for a, b in zip(found, expected, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        # Of a token that sees itself alone, torch's kernels round a gradient that is zero.
        size = max(float(b.abs().max()), 1.0 if "fused" in kernels else 0.0)
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * size + 1e-9)


def test_a_window_that_nobody_reaches_costs_nothing() -> None:
    (one,) = row("one token").segments
    assert one.within(None) is one.mask
    assert one.within(1) is one.mask
    first = row("prefix").segments[0]
    assert first.longest == 9 + 21
    assert first.within(30) is first.mask
    assert first.within(29) is not first.mask


def test_masks_are_made_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    monkeypatch.setattr(
        segments.Segments, "within", lambda segment, window: asked.append(window) or segment.mask
    )
    packed = row("prefix")
    q = torch.randn(1, 2, len(packed.source), 4)
    with attention.attending(packed.segments):
        for window in (5, None, 5, 5, None):
            attention.packed_attention(None, q, q, q, None, sliding_window=window)
    assert asked.count(5) == asked.count(None) == len(packed.segments)


def test_of_keys_that_examples_share_gradients_add_up_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred examples that look at one prefix: in bfloat16 the last of them would be lost."""
    monkeypatch.setattr(fused_attention, "usable", lambda *_: True)
    packed = pack([pool([encoded([7, 8, n], 1) for n in range(300)])], [0], [0], [range(300)], together=True)
    v = torch.zeros(1, 1, len(packed.source), 4, dtype=torch.bfloat16, requires_grad=True)
    q = torch.zeros_like(v)
    with attention.attending(packed.segments):
        out, _ = attention.packed_attention(None, q, q, v, None)
    out.backward(torch.ones_like(out))
    assert v.grad is not None
    assert float(v.grad[0, 0, 0, 0]) == pytest.approx(1 + 1 / 2 + 300 / 3, rel=1e-2)


def test_on_a_gpu_launches_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations that write something, forth and back: a launch each there."""
    monkeypatch.setattr(fused_kernels, "usable", lambda *_: False)
    counts = {}
    for fused in (False, True):
        monkeypatch.setattr(fused_attention, "usable", lambda *_, fused=fused: fused)
        packed = row("prefix", together=fused)
        inputs = [torch.randn(1, heads, len(packed.source), 8, requires_grad=True) for heads in (4, 2, 2)]
        with attention.attending(packed.segments):
            attention.packed_attention(None, *inputs, None)  # masks are made
            with Written() as written:
                attention.packed_attention(None, *inputs, None)[0].sum().backward()
        counts[fused] = written.count
    assert counts[True] < 40
    assert counts[False] > 3 * counts[True]


def test_attention_sinks_are_refused() -> None:
    q = torch.randn(1, 2, 3, 4)
    with pytest.raises(ModelError, match="Linear has attention sinks, which packed rows cannot run"):
        attention.packed_attention(torch.nn.Linear(1, 1), q, q, q, None, s_aux=torch.zeros(2))
