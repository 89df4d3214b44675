"""The CPU kernel against the reference, over request mixes and by invariants."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_mega.engine.routing import NULL_SLOT
from vllm_mega.errors import KernelError
from vllm_mega.kernels import cpu, native, reference


class Case:
    """Random weights in slots of different ranks, and a routing table of the kind `mix`."""

    def __init__(
        self,
        seed: int = 7,
        *,
        tokens: int = 9,
        slots: int = 8,
        max_rank: int = 8,
        inputs: int = 24,
        outputs: tuple[int, ...] = (16,),
        width: int = 3,
        mix: str = "different",
        dtype: torch.dtype = torch.float32,
    ):
        g = torch.Generator().manual_seed(seed)
        rng = np.random.default_rng(seed)
        self.outputs, self.max_rank, self.slots = outputs, max_rank, slots
        # Rank 0 too: adapters leave slices alone.
        self.ranks = rng.integers(0, max_rank + 1, (slots, len(outputs)))
        self.ranks[0] = max_rank
        self.a = [[torch.randn(int(r), inputs, generator=g).to(dtype) for r in row] for row in self.ranks]
        self.b = [
            [torch.randn(o, int(r), generator=g).to(dtype) for r, o in zip(row, outputs, strict=True)]
            for row in self.ranks
        ]
        self.x = torch.randn(tokens, inputs, generator=g).to(dtype)
        self.y = torch.randn(tokens, sum(outputs), generator=g).to(dtype)
        width = min(width, slots)
        if mix == "same":
            slot = np.tile(rng.permutation(slots)[:width], (tokens, 1))
        elif mix == "runs":  # as in prefill: stretches of tokens with one mixture, and some with none
            route = rng.integers(0, 4, 1 + tokens // 5).repeat(5)[:tokens]
            slot = np.stack([rng.permutation(slots)[:width] for _ in range(4)])[route]
            slot[route == 0] = NULL_SLOT
        elif mix == "none":
            slot = np.full((tokens, width), NULL_SLOT)
        else:  # every token a different mixture, every third none
            slot = np.stack([rng.permutation(slots)[:width] for _ in range(tokens)])
            slot[::3] = NULL_SLOT
        self.slot = slot.astype(np.int32)
        self.weight = (rng.integers(-64, 64, slot.shape) / 64).astype(np.float32)

    def layer(self) -> cpu.Layer:
        table = torch.zeros(self.slots, len(self.outputs), 3, dtype=torch.int64)
        self.kept = [
            [cpu.layout(*ab) for ab in zip(*row, strict=True)] for row in zip(self.a, self.b, strict=True)
        ]
        for s, row in enumerate(self.ranks):
            for p, rank in enumerate(row):
                a, b = self.kept[s][p]
                table[s, p] = torch.tensor([a.data_ptr(), b.data_ptr(), int(rank)])
        return cpu.Layer(table, self.x.shape[1], self.outputs, self.max_rank)

    def plan(self, rows: slice = slice(None)) -> cpu.Plan:
        plan = cpu.Plan(self.x.shape[0] + 5, self.slots)
        plan.update(self.slot[rows], self.weight[rows])
        return plan

    def run(self, rows: slice = slice(None)) -> torch.Tensor:
        out = self.y[rows].clone()
        cpu.add_mixture(out, self.x[rows], self.layer(), self.plan(rows))
        return out

    def expected(self) -> torch.Tensor:
        out, offset = self.y.float().clone(), 0
        a, b = torch.zeros(2)[:0], torch.zeros(2)[:0]
        for p, o in enumerate(self.outputs):
            a = torch.zeros(self.slots, self.max_rank, self.x.shape[1])
            b = torch.zeros(self.slots, o, self.max_rank)
            for s, rank in enumerate(self.ranks[:, p]):
                a[s, :rank], b[s, :, :rank] = self.a[s][p], self.b[s][p]
            part = slice(offset, offset + o)
            out[:, part] = reference.add_mixture(
                out[:, part], self.x, a, b, torch.from_numpy(self.slot), torch.from_numpy(self.weight)
            )
            offset += o
        return out


@pytest.mark.parametrize("mix", ["same", "different", "runs", "none"])
@pytest.mark.parametrize(("slots", "max_rank"), [(1, 8), (8, 5), (9, 64)])
@pytest.mark.parametrize("tokens", [1, 13, 70])
@pytest.mark.parametrize("outputs", [(16,), (64, 200, 7)])
def test_equals_the_reference(mix, slots, max_rank, tokens, outputs):
    case = Case(tokens=tokens, slots=slots, max_rank=max_rank, inputs=83, outputs=outputs, width=4, mix=mix)
    torch.testing.assert_close(case.run(), case.expected(), rtol=1e-4, atol=2e-3)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(1, 140),
    st.integers(1, 12),
    st.integers(1, 20),
    st.lists(st.integers(1, 150), min_size=1, max_size=3),
    st.integers(1, 6),
    st.sampled_from(["same", "different", "runs"]),
)
def test_any_shape_equals_the_reference(seed, tokens, slots, max_rank, outputs, width, mix):
    case = Case(
        seed, tokens=tokens, slots=slots, max_rank=max_rank, outputs=tuple(outputs), width=width, mix=mix
    )
    torch.testing.assert_close(case.run(), case.expected(), rtol=1e-4, atol=2e-3)


def test_tokens_without_a_mixture_are_untouched_bit_for_bit():
    case = Case(tokens=50, mix="different")
    case.a[7][0].fill_(float("inf"))  # stock vLLM 0.32 reads the last slot for "none"
    case.slot[case.slot == 7] = NULL_SLOT
    out = case.run()
    assert torch.equal(out[::3], case.y[::3])
    assert bool(out.isfinite().all())
    assert not torch.equal(out[1], case.y[1])


@pytest.fixture(params=["here", "without AMX"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """The kernel for bfloat16 of this machine; that of a machine without AMX."""
    if request.param == "without AMX":
        monkeypatch.setattr(native, "has_amx", lambda: False)
    native.functions.cache_clear()
    yield
    native.functions.cache_clear()


@pytest.mark.parametrize("max_rank", [1, 4, 8, 16, 32, 33, 64])
@pytest.mark.parametrize("tokens", [1, 16, 17, 33, 70])
@pytest.mark.parametrize(("inputs", "mix"), [(83, "different"), (96, "runs"), (64, "same")])
def test_bfloat16_is_close_to_the_float32_reference(kernel, max_rank, tokens, inputs, mix):
    case = Case(
        max_rank=max_rank, tokens=tokens, inputs=inputs, outputs=(16, 150), mix=mix, dtype=torch.bfloat16
    )
    case.slot[: tokens // 3] = NULL_SLOT  # as where a mixture starts inside the prompt
    out, want = case.run(), case.expected()
    assert out.dtype == torch.bfloat16
    assert (out.float() - want).norm() <= 4e-3 * want.norm()  # two roundings: 2^-9 each at most
    null = (case.slot < 0).all(axis=1)
    assert torch.equal(out[null], case.y[null])


def test_a_token_gets_the_same_bfloat16_bits_in_any_batch(kernel):
    case = Case(11, tokens=70, slots=20, max_rank=40, inputs=83, outputs=(16, 100), dtype=torch.bfloat16)
    together = case.run()
    for rows in (slice(1, 2), slice(64, 68), slice(1, 41)):
        assert torch.equal(case.run(rows), together[rows])


REGISTERS = """
extern "C" void load(const void* shapes) { asm volatile("ldtilecfg (%0)" ::"r"(shapes) : "memory"); }
extern "C" void store(void* shapes) { asm volatile("sttilecfg (%0)" ::"r"(shapes) : "memory"); }
"""


@pytest.mark.amx
@pytest.mark.parametrize("configured", [True, False])
def test_whoever_else_uses_the_registers_finds_them_as_they_were(configured, tmp_path: Path):
    (source := tmp_path / "registers.cpp").write_text(REGISTERS)
    registers, case = native.loaded(source), Case(tokens=40, mix="same", dtype=torch.bfloat16)
    shapes = np.zeros(64, np.uint8)
    if configured:
        shapes[[0, 16, 48]] = 1, 32, 3  # palette, bytes of a row and rows of the first
    registers.load(ctypes.c_void_p(shapes.ctypes.data))
    case.run()
    found = np.empty_like(shapes)
    registers.store(ctypes.c_void_p(found.ctypes.data))
    registers.load(ctypes.c_void_p(np.zeros_like(shapes).ctypes.data))
    assert np.array_equal(found, shapes)


def test_panels_are_what_the_kernel_reads():
    a = torch.randn(18, 40).bfloat16()
    whole, rest = cpu.paneled(a).split([32 * 16 * 2, 32 * 2 * 2 + 32])
    assert torch.equal(whole.view(32, 16, 2)[3], a[:16, 6:8])
    assert torch.equal(rest[: 32 * 2 * 2].view(32, 2, 2)[19], a[16:, 38:40])
    assert not whole.view(32, 16, 2)[20:].any()
    assert not rest[20 * 2 * 2 :].any()


def test_bfloat16_rounds_as_pytorch_does(kernel):
    case = Case(tokens=40, width=1, mix="same", dtype=torch.bfloat16)
    case.weight[:] = 0.5
    case.x.sign_()  # A @ x is exact in bfloat16: what is left is the rounding of y
    for row in case.a:
        row[0].sign_()
    want = case.expected().to(torch.bfloat16)
    assert float((case.run() == want).float().mean()) > 0.98  # the rest: sums in another order


def test_a_token_gets_the_same_bits_in_any_batch():
    case = Case(11, tokens=70, inputs=83, outputs=(16, 100), mix="different")
    together = case.run()
    for rows in (slice(1, 2), slice(64, 68), slice(1, 41)):
        assert torch.equal(case.run(rows), together[rows])


def test_a_plan_is_used_again_for_a_smaller_step():
    case = Case(tokens=70, mix="same")
    plan, layer = case.plan(), case.layer()
    plan.update(case.slot[:3], case.weight[:3])
    out = case.y.clone()
    cpu.add_mixture(out, case.x, layer, plan)
    assert torch.equal(out[3:], case.y[3:])
    torch.testing.assert_close(out[:3], case.expected()[:3], rtol=1e-4, atol=2e-3)


def test_rows_may_lie_apart():
    case = Case(tokens=9, outputs=(16, 8))
    wide = torch.zeros(9, 40)
    wide[:, :24] = case.y
    cpu.add_mixture(wide[:, :24], case.x, case.layer(), case.plan())
    torch.testing.assert_close(wide[:, :24], case.expected(), rtol=1e-4, atol=2e-3)
    assert not wide[:, 24:].any()


def test_what_cannot_be_is_refused_and_changes_nothing():
    case = Case(tokens=6, mix="same")
    short = case.y[:4].clone()
    with pytest.raises(AssertionError, match="more tokens"):
        cpu.add_mixture(short, case.x[:4], case.layer(), case.plan())
    layer = case.layer()
    layer.table[int(case.slot[0, 0]), 0, 2] = 9
    with pytest.raises(AssertionError, match="rank"):
        cpu.add_mixture(short, case.x[:4], layer, case.plan(slice(4)))
    assert torch.equal(short, case.y[:4])


def test_a_compiled_graph_reads_the_routing_of_the_moment():
    case = Case(2, tokens=4, outputs=(16, 8), mix="same")
    layer, plan = case.layer(), case.plan()

    def step(x, y):
        out = y * 2
        cpu.add_mixture(out, x, layer, plan)
        return out + 1

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(case.x, case.y), step(case.x, case.y))
    assert not torch.equal(step(case.x, case.y), case.y * 2 + 1)
    plan.update(np.full((4, 3), NULL_SLOT, np.int32), case.weight)
    torch.testing.assert_close(compiled(case.x, case.y), case.y * 2 + 1)


def test_a_machine_without_a_compiler_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(KernelError, match=r"no-such-compiler.*install g\+\+"):
        native.compiled()


def test_a_compiler_that_refuses_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    broken = tmp_path / "broken.cpp"
    broken.write_text("this is not C++")
    monkeypatch.setattr(native, "SOURCE", broken)
    monkeypatch.setenv("VLLM_MEGA_HOME", str(tmp_path))
    with pytest.raises(KernelError, match="not C"):
        native.compiled()
    assert not list((tmp_path / "kernels").iterdir())


def test_a_cold_cache_is_filled_by_processes_at_once(tmp_path: Path):
    code = "import torch; from vllm_mega.kernels import native; native.functions()"
    command = ["env", f"VLLM_MEGA_HOME={tmp_path}", sys.executable, "-c", code]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [p.wait(120) for p in processes] == [0, 0]
    assert len(list((tmp_path / "kernels").iterdir())) == 2, "the library and its digest"
