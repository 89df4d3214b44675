"""The benchmark of the trainer: what is invented, counted and concluded."""

from __future__ import annotations

import pytest

from loadtests.account import KINDS, kind
from loadtests.invented import invent
from loadtests.peak import Product
from loadtests.plain_peft import PlainLoop
from loadtests.trainer import PROGRAM, Turn, figures


def test_memories_are_invented_alike_and_all_different() -> None:
    memories = invent(100, 0)
    assert memories == invent(100, 0)
    assert memories[:10] != invent(10, 1)
    assert len({memory.id for memory in memories}) == len({memory.text for memory in memories}) == 100
    assert all(38 <= len(memory.text.split()) <= 50 for memory in memories)
    assert not any(sign in memory.text for memory in memories for sign in "{}")


def test_more_than_there_are_titles_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 132 memories"):
        invent(133, 0)


@pytest.mark.parametrize(
    ("name", "parents", "expected"),
    [
        ("aten::addmm", [], "matrix products"),
        ("aten::mm", ["_LoraProductBackward"], "matrix products"),
        ("aten::bmm", ["aten::matmul", "_Attend"], "attention"),
        ("aten::_softmax", [], "attention"),
        ("aten::_log_softmax", [], "element-wise"),
        ("aten::mul_", [], "element-wise"),
        ("_RMSNormBackward", [], "element-wise"),
        ("aten::mul_", ["Optimizer.step#Adam.step"], "optimizer"),
        ("aten::_fused_adam_", [], "optimizer"),
        ("aten::topk", [], "other"),
    ],
)
def test_operations_have_kinds(name: str, parents: list[str], expected: str) -> None:
    assert kind(name, parents) == expected
    assert expected in KINDS


def test_figures_compare_with_the_faster_loop() -> None:
    turns = [Turn(40.0, 9.0, 10, 2000.0, 8e12), Turn(60.0, 9.0, 9, 2000.0, 8e12)]
    loops = [PlainLoop("bfloat16", 50.0, 20.0, 1.0, 2.0), PlainLoop("float32", 70.0, 3.0, 1.0, 2.0)]
    gemm = [Product("bfloat16", (1, 2, 3), 800.0), Product("float32", (1, 2, 3), 400.0)]
    found = figures(invent(10, 0), turns, loops, gemm, base_bytes=1_000_000)
    assert (found.seconds_per_memory, found.peft_seconds_per_memory, found.speedup) == (5.0, 50.0, 10.0)
    assert (found.bytes_per_memory, found.share_of_base, found.recalled) == (2000.0, 0.002, 0.95)
    assert found.share_of_gemm_peak == pytest.approx(8e12 / 50 / 800e9)
    uncounted = [Turn(40.0, 9.0, 10, 2000.0, None)]
    assert figures(invent(10, 0), uncounted, loops, gemm, 1_000_000).share_of_gemm_peak is None


def test_bad_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        PROGRAM.arguments(["--output", "x.json", "--count", "0"])
    assert "--count: must be at least 1" in capsys.readouterr().err
