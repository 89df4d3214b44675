"""Our kernels and vLLM's own, as `loadtests.gpu` runs them: interpreted, small, by the definition."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import triton.language as tl

from loadtests import gpu_check
from loadtests.gpu_check import PADDED, RANKS, Step, check, mixed, of_bound, worst
from loadtests.gpu_ours import OurStep, table
from loadtests.gpu_shapes import Rows, adapters_of, routing, rows_of
from loadtests.gpu_stock import FILES, OPS, Stock, StockError, StockStep, from_source, load
from loadtests.roofline_data import Linear, Load
from tests.interpreted import interpret
from vllm_mega.kernels import triton_kernels

QKV, DOWN = Linear("qkv", 96, (64, 32, 32)), Linear("down", 160, (48,))
SITE = Path(find_spec("vllm").origin).parent.parent


@pytest.fixture
def ours(monkeypatch) -> None:
    interpret(monkeypatch, vars(triton_kernels))


@pytest.fixture
def stock(monkeypatch) -> Stock:
    ops = from_source(SITE)
    interpret(monkeypatch, vars(tl))
    for function in (ops.shrink, ops.expand):
        interpret(monkeypatch, function.__wrapped__.__globals__)
    return ops


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("linear", [QKV, DOWN])
def test_our_kernels_are_within_what_is_allowed(linear):
    for step in (routing(Load("", 3, 1), 8, 4), mixed(40, 3)):
        assert 0 < check(linear, Step("", step), torch.float32, "cpu") <= 1


@pytest.mark.usefixtures("ours")
def test_a_wrong_weight_and_a_touched_row_are_seen():
    one, step = adapters_of(QKV, RANKS, torch.float32, "cpu"), routing(Load("", 5, 1), 8, 2)
    rows = rows_of(QKV, 5 + PADDED, torch.float32, "cpu")
    ours, out = OurStep([one], [table(one)], len(rows.x), 2), rows.y.clone()
    ours.plan((step[0], np.where(np.arange(5)[:, None] == 4, step[1] + 1 / 64, step[1]).astype(np.float32)))
    ours([Rows(rows.x, out)])
    assert worst(out[:4], one, Rows(*(part[:4] for part in rows)), (step[0][:4], step[1][:4])) <= 1
    assert worst(out, one, rows, step) > 10
    touched = rows.y.clone()
    touched[5 + PADDED - 1, 0] += 1
    nothing = np.full_like(step[0], -1), step[1]
    assert worst(rows.y, one, rows, nothing) == 0
    assert worst(touched, one, rows, nothing) == torch.inf


def test_what_is_allowed_is_one_rounding_and_a_little():
    want = torch.tensor([1.0, 100.0])
    assert of_bound(torch.tensor([1.0, 100.0]), want) == 0
    assert of_bound(torch.tensor([1.0, 100.0 + 1e-3]), want) == pytest.approx(0.5, rel=0.05)
    assert of_bound(torch.tensor([1.0, torch.nan]), want) == torch.inf
    half = torch.tensor([1.0, 100.0 + 2.0**-1]).to(torch.bfloat16)  # one unit in the last place too much
    assert of_bound(half, want) > 1 / 2


def test_vllms_kernels_are_read_from_their_sources_alone(stock):
    """At K=1 and weight 1 they give what ours give, and what the definition says."""
    slots, load_ = 3, Load("", 5, 1)
    for linear in (QKV, DOWN):
        one = adapters_of(linear, [16] * slots, torch.float16, "cpu")
        rows = rows_of(linear, 5, torch.float16, "cpu")
        step = StockStep(stock, [one], slots, [one.flipped()])
        slot, _ = routing(load_, slots, 1)
        step.plan(torch.from_numpy(slot[:, 0]))
        out = rows.y.clone()
        step([Rows(rows.x, out)])
        want = gpu_check.wanted(one, rows, (slot, np.ones_like(slot, dtype=np.float32)))
        assert (want - rows.y).abs().max() > 0.5
        assert of_bound(out, want) <= 4


def test_reading_them_leaves_no_stand_ins_behind():
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "vllm"}
    from_source(SITE)
    after = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "vllm"}
    assert after == before


def test_a_folder_without_them_is_refused(tmp_path):
    with pytest.raises(StockError, match=f"has no {', '.join(FILES)}; it must be a folder with"):
        load(tmp_path)
    folder = tmp_path / Path(*OPS.split("."))
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / f"{name}.py").write_text("import vllm.something_new\n")
    with pytest.raises(StockError, match=r"not as in 0\.32 or 0\.33: .*something_new"):
        load(tmp_path)
