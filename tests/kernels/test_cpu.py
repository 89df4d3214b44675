"""The CPU kernel against the reference, over request mixes and by invariants."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vllm_mega.engine.routing import NULL_SLOT, dense_weights
from vllm_mega.kernels import cpu, reference


def _case(seed: int, *, tokens: int, slots: int, rank: int, outputs: tuple[int, ...], width: int, mix: str):
    """Random weights and a routing table of the kind `mix`."""
    g = torch.Generator().manual_seed(seed)
    a = [torch.randn(slots, 1, rank, 24, generator=g) for _ in outputs]
    b = [torch.randn(slots, rank, o, generator=g).transpose(1, 2).unsqueeze(1) for o in outputs]
    x = torch.randn(tokens, 24, generator=g)
    y = torch.randn(tokens, sum(outputs), generator=g)
    rng = np.random.default_rng(seed)
    if mix == "same":
        slot = np.tile(rng.permutation(slots)[:width], (tokens, 1))
    elif mix == "zipf":
        slot = np.stack([(rng.zipf(1.5, width) - 1) % slots for _ in range(tokens)])
        slot = np.where(np.sort(slot) == np.roll(np.sort(slot), 1, axis=1), NULL_SLOT, np.sort(slot))
    elif mix == "none":
        slot = np.full((tokens, width), NULL_SLOT)
    else:  # every token a different mixture, every third none
        slot = np.stack([rng.permutation(slots)[:width] for _ in range(tokens)])
        slot[::3] = NULL_SLOT
    weight = rng.integers(-64, 64, slot.shape) / 64
    return y, x, a, b, slot.astype(np.int32), weight.astype(np.float32)


def _run(y, x, a, b, slot, weight):
    slots = a[0].shape[0]
    dense = dense_weights(slot, weight, slots)
    used = np.flatnonzero(dense.any(axis=0))
    counts = torch.zeros(1 + slots, dtype=torch.int64)
    counts[0], counts[1 : 1 + len(used)] = len(used), torch.from_numpy(used)
    padded = torch.zeros(x.shape[0] + 5, slots, dtype=x.dtype)
    padded[: x.shape[0]] = torch.from_numpy(dense)
    out = y.clone()
    torch.ops.vllm_mega.add_mixture(out, x, a, b, padded, counts)
    return out


def _expected(y, x, a, b, slot, weight):
    parts, offset = [], 0
    for a_i, b_i in zip(a, b, strict=True):
        width = b_i.shape[2]
        part = y[:, offset : offset + width]
        args = (a_i.squeeze(1), b_i.squeeze(1), torch.from_numpy(slot), torch.from_numpy(weight))
        parts.append(reference.add_mixture(part, x, *args))
        offset += width
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("mix", ["same", "different", "zipf", "none"])
@pytest.mark.parametrize(("slots", "rank"), [(1, 8), (8, 8), (9, 64)])
@pytest.mark.parametrize("tokens", [1, 13])
@pytest.mark.parametrize("outputs", [(16,), (16, 40)])
def test_equals_the_reference(mix, slots, rank, tokens, outputs):
    width = min(4, slots)
    case = _case(7, tokens=tokens, slots=slots, rank=rank, outputs=outputs, width=width, mix=mix)
    assert slots == 1 or (slots * rank > cpu._DENSE_COLUMNS) == (rank == 64), "both branches are covered"
    torch.testing.assert_close(_run(*case), _expected(*case), rtol=1e-4, atol=1e-3)


def test_tokens_without_a_mixture_are_untouched_bit_for_bit():
    y, x, a, b, slot, weight = _case(3, tokens=9, slots=8, rank=8, outputs=(16,), width=3, mix="different")
    a[0][-1] = 3e38  # stock vLLM 0.32 reads the last slot for "none"; here it would even overflow
    slot[slot == 7] = 0
    out = _run(y, x, a, b, slot, weight)
    assert torch.equal(out[::3], y[::3])
    assert not torch.equal(out[1], y[1])


def test_bfloat16_is_close_to_the_float32_reference():
    y, x, a, b, slot, weight = _case(5, tokens=7, slots=8, rank=8, outputs=(16, 16), width=4, mix="different")
    half = [t.to(torch.bfloat16) for t in (y, x)], [[t.to(torch.bfloat16) for t in ts] for ts in (a, b)]
    (y, x), (a, b) = half
    out, want = _run(y, x, a, b, slot, weight).float(), _expected(y, x, a, b, slot, weight)
    assert (out - want).norm() / want.norm() < 1e-2


def test_batched_equals_alone():
    y, x, a, b, slot, weight = _case(11, tokens=6, slots=8, rank=8, outputs=(16,), width=4, mix="different")
    together = _run(y, x, a, b, slot, weight)
    for t in range(6):
        one = slice(t, t + 1)
        alone = _run(y[one], x[one], a, b, slot[one], weight[one])
        torch.testing.assert_close(alone, together[one], rtol=1e-5, atol=1e-4)


def test_the_operator_can_be_compiled_and_reads_the_routing_of_the_moment():
    y, x, a, b, slot, weight = _case(2, tokens=4, slots=8, rank=8, outputs=(16,), width=2, mix="same")
    table = torch.from_numpy(dense_weights(slot, weight, 8))
    used = torch.tensor([8, *range(8)])

    def layer(x, y):
        out = y * 2
        torch.ops.vllm_mega.add_mixture(out, x, a, b, table, used)
        return out + 1

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, y), layer(x, y))
    used[0] = 0
    torch.testing.assert_close(compiled(x, y), y * 2 + 1)
