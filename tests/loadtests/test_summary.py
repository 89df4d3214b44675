"""From measurements to figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.engine import cases
from loadtests.engine_child import Figure
from loadtests.summary import Run, Sample, summarise
from vllm_mega.errors import MegaError
from vllm_mega.output import write_json


def figure(rate: float) -> Figure:
    return Figure(rate, 100.0)


def test_ratios_are_taken_between_neighbours() -> None:
    mega = [(figure(90), figure(100)), (figure(45), figure(50)), (figure(99), figure(100))]
    stock = [(figure(25), figure(100))] * 3
    found = cases(
        {
            ("stock", "default", 1, "decode1", False): stock,
            ("mega", "default", 4, "decode1", False): mega,
            ("mega", "default", 4, "decode1", True): mega,
        }
    )
    by_kind = {(case.engine, case.compiled): case for case in found}
    assert by_kind["mega", False].ratio_to_base == 0.9
    assert by_kind["mega", False].ratio_to_stock_one_adapter == 3.6
    assert by_kind["mega", False].tokens_per_s == 90
    assert by_kind["mega", True].ratio_to_stock_one_adapter is None
    assert by_kind["base", False].ratio_to_base == 1


def test_a_scenario_is_compared_with_the_base_model() -> None:
    fast = Run("base", 2.0, (Sample(0.1, 1.1, 11), Sample(0.3, 1.3, 11)))
    slow = Run("zipf", 4.0, (Sample(0.2, 2.2, 11), Sample(0.2, 2.2, 11)), ("refused",))
    base, zipf = summarise([fast, slow])
    assert base.ttft_ms is not None
    assert base.ttft_ms.mean == pytest.approx(200)
    assert base.output_tokens_per_s == 11
    assert (zipf.requests, zipf.errors, zipf.error_examples) == (3, 1, ("refused",))
    assert zipf.relative_to_base is not None
    assert zipf.relative_to_base.output_tokens_per_s == 0.5
    assert zipf.tpot_ms is not None
    assert zipf.tpot_ms.p50 == pytest.approx(200)


def test_behind_a_prefix_the_base_model_stands_behind_it_too() -> None:
    samples = {"base": 0.1, "prefix-base": 0.4, "prefix-different": 0.44}
    runs = [Run(name, 1.0, (Sample(ttft, 1 + ttft, 11),)) for name, ttft in samples.items()]
    *_, ours = summarise(runs)
    assert ours.relative_to_base is not None
    assert ours.relative_to_base.ttft_ms.p50 == 1.1


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", figure(3.5))
    assert b'"tokens_per_s": 3.5' in (tmp_path / "a.json").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(MegaError, match="could not be written"):
        write_json(tmp_path / "missing" / "a.json", figure(3))
