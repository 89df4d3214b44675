"""The benchmark for GPUs where there is none: what it would do, what it says, what it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests import gpu, gpu_apart, gpu_times
from loadtests.gpu_apart import ApartError, result, without_vllm
from loadtests.gpu_options import Options
from loadtests.gpu_report import COULD_NOT, FAIL, LEFT_OUT, PASS, SLOW, Line, Report, as_markdown, read
from loadtests.gpu_shapes import routing
from loadtests.gpu_time import Clock, known
from loadtests.gpu_times import Case, cases, judged, paper
from loadtests.roofline_data import GPUS, LOADS, Load

FIGURES = {"ours": 0.9, "floor": 0.3, "estimate": 1.0, "base": 5.0}


def options(tmp_path: Path, *, seconds: float = 10) -> Options:
    return Options(tmp_path / "gpu.json", True, None, Clock(seconds), "cpu")


def test_without_a_gpu_one_line_says_so(tmp_path, capsys):
    assert gpu.main(["--output", str(tmp_path / "gpu.json")]) == 1
    said = capsys.readouterr()
    assert said.err == "error: torch sees no GPU here; on paper: python -m loadtests.roofline\n"
    assert said.out == ""
    assert not list(tmp_path.iterdir())


def test_it_needs_little(repo):
    """Machines with a GPU may have torch, Triton and NumPy, and nothing else of ours."""
    script = (
        "import loadtests.gpu, loadtests.roofline, sys; print(*{m.partition('.')[0] for m in sys.modules})"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=repo, capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert {"torch", "triton", "numpy", "vllm_mega"} <= loaded
    assert not loaded & {
        "msgspec",
        "rich",
        "sqlalchemy",
        "transformers",
        "vllm",
        "peft",
        "safetensors",
        "tests",
    }


def test_every_request_has_adapters_of_its_own_and_a_step_as_many_as_it_can():
    for load, adapters, width in [
        (LOADS[1], 32, 4),
        (LOADS[2], 8, 8),
        (LOADS[5], 8, 1),
        (Load("", 2, 2), 5, 2),
    ]:
        slot, weight = routing(load, adapters, width)
        assert slot.shape == weight.shape == (load.tokens, width)
        assert all(len(set(row)) == width for row in slot.tolist())
        assert (slot[:: load.each] == slot[load.each - 1 :: load.each]).all()
        assert len(set(slot.flat)) == load.adapters(adapters, width)
        assert set((64 * weight).flat) <= set(range(1, 65))


def test_loads_are_timed_once():
    full, quick = cases(quick=False), cases(quick=True)
    names = [case.name for case in full]
    assert len(set(names)) == len(names)
    assert "decode 1, 8 adapters, K=4" in names
    assert "decode 1, 32 adapters, K=4" not in names  # the same load
    assert "decode 64, 32 adapters, K=8" in names
    assert {case.load.name for case in quick} == {case.load.name for case in full}
    assert len(quick) < len(full) / 2


def test_the_floor_is_that_of_the_paper():
    """One request, one adapter of rank 16 on all of Llama-3.1-8B: 84 MB of weights, and rows."""
    found = paper(Case(LOADS[0], 8, 1), GPUS["h100"])
    rows = 4096 + 2 * 6144 + 4096 + 2 * 4096 + 4096 + 2 * 28672 + 14336 + 2 * 4096
    assert found["floor"] == pytest.approx(1e3 * 2 * 32 * (16 * 81920 + rows) / 3350e9)
    assert found["estimate"] > 256 * 3e-3


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ({}, PASS),
        ({"ours": 1.6}, SLOW),
        ({"stock": 0.9}, PASS),
        ({"stock": 0.8}, SLOW),
        ({"ours": 1.4, "stock": 1.5}, PASS),
    ],
)
def test_a_time_is_judged_by_the_estimate_and_by_vllms_own(figures, verdict):
    line = judged("some", FIGURES | figures)
    assert line.verdict == verdict
    assert "of the floor" in line.detail
    assert ("of vLLM's own" in line.detail) == ("stock" in figures)


def test_the_data_sheet_is_that_of_the_very_gpu():
    names = {
        "NVIDIA H100 80GB HBM3": "h100", "NVIDIA H200": "h200", "NVIDIA A100-SXM4-80GB": "a100",
        "NVIDIA L4": "l4", "NVIDIA L40S": "l40s", "NVIDIA GeForce RTX 4090": "rtx-4090",
    }  # fmt: skip
    assert {name: known(name) for name in names} == {name: GPUS[short] for name, short in names.items()}
    for other in (
        "NVIDIA H100 PCIe",
        "NVIDIA L40",
        "NVIDIA A100-SXM4-40GB",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
    ):
        assert known(other) is None


def test_nothing_begins_when_the_time_is_over(tmp_path):
    late = options(tmp_path, seconds=-1)
    lines = list(gpu.PARTS["kernels"](late))
    assert len(lines) > 10
    assert {line.verdict for line in lines} == {LEFT_OUT}
    timed = list(gpu_times._loads(late, None, GPUS["h100"]))  # type: ignore[arg-type]
    assert [line.verdict for line in timed] == [LEFT_OUT] * 5


def test_a_kernel_that_fails_is_a_line_and_the_others_follow(tmp_path, monkeypatch):
    def broken(*_: object) -> float:
        raise RuntimeError("out of shared memory")

    monkeypatch.setattr("loadtests.gpu_check.check", broken)
    monkeypatch.setattr("loadtests.gpu_check.check_graph", lambda _: 0.5)
    *checks, last = gpu.PARTS["kernels"](options(tmp_path))
    assert {(line.verdict, line.detail) for line in checks} == {(FAIL, "RuntimeError: out of shared memory")}
    assert (last.verdict, last.figures) == (PASS, {"of_bound": 0.5})


def test_without_its_compiled_extension_vllms_engine_is_not_started(tmp_path, monkeypatch):
    assert without_vllm() is None  # here it is whole
    sources = tmp_path / "vllm"
    sources.mkdir()
    (sources / "__init__.py").touch()
    monkeypatch.setattr(
        gpu_apart, "find_spec", lambda _: type("", (), {"submodule_search_locations": [str(sources)]})
    )
    (line,) = gpu.PARTS["engine"](options(tmp_path))
    assert line.verdict == COULD_NOT
    assert "has no compiled extension" in line.detail
    monkeypatch.setattr(gpu_apart, "find_spec", lambda _: None)
    assert without_vllm() == "vLLM is not installed"


def test_a_load_test_that_fails_is_a_line(tmp_path, monkeypatch):
    (line,) = gpu.PARTS["trainer"](options(tmp_path))
    assert line.verdict == COULD_NOT
    assert line.name == "llama-3.2-1b"
    assert "loadtests.whole ended with 1: error: torch sees no GPU here" in line.detail
    with pytest.raises(ApartError, match=r"ended with 1: .*No module named loadtests\.nothing"):
        result("nothing", tmp_path / "out.json", [], 1)


def test_what_load_tests_wrote_becomes_lines(tmp_path, monkeypatch):
    case = {"load": "decode16", "engine": "mega", "adapters": "default", "k": 4, "tokens_per_s": 1234.5}
    case |= {"ratio_to_base": 0.7, "ratio_to_stock_one_adapter": 0.99}
    row = {"jobs": 8, "seconds": 0.76, "step": 0.138, "of_peak": 0.14, "tensors": 22.1e9, "estimate": 21.4e9}
    monkeypatch.setattr(gpu_apart, "result", lambda module, *_: {"cases": [case], "rows": [row]})
    (line,) = gpu.PARTS["engine"](options(tmp_path))
    assert (line.verdict, line.name) == (SLOW, "decode16, mega, adapters default, K=4")
    assert line.detail == "1,234 tokens/s, 0.70 of the base model, 0.99 of vLLM's own with one adapter"
    (line,) = gpu.PARTS["trainer"](options(tmp_path))
    assert line.verdict == PASS
    assert line.detail.startswith(
        "0.76 s a memory, 138 ms a step, 14% of the data sheet's FLOP/s, 20.6 GiB: 1.03"
    )


def test_a_part_that_breaks_leaves_the_others(tmp_path, monkeypatch, capsys):
    def breaks(_: Options):
        yield Line("kernels", "one", PASS, "fine")
        raise OSError("a driver is gone")

    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "machine", lambda: {"gpu": "Some GPU", "torch": "2.11"})
    monkeypatch.setitem(gpu.PARTS, "kernels", breaks)
    monkeypatch.setitem(gpu.PARTS, "stock", lambda _: iter([judged("decode 1", FIGURES | {"ours": 2.0})]))
    output = tmp_path / "new" / "gpu.json"
    assert gpu.main(["--output", str(output), "--parts", "kernels", "stock"]) == 1
    said = capsys.readouterr().out
    assert "OSError: a driver is gone" in said
    assert [line["verdict"] for line in json.loads(output.read_text())["lines"]] == [PASS, COULD_NOT, SLOW]
    assert gpu.main(["--markdown", str(output)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Some GPU, torch 2.11\n\n| load | base, ms |")
    assert "| decode 1 | 5.000 | 2.000 | 0.300 | 1.000 | - | slow |" in shown
    assert "| kernels | one | pass | fine |" in shown


def test_slow_is_not_wrong():
    assert Report({}, [Line("stock", "one", SLOW), Line("stock", "two", LEFT_OUT)]).good
    assert not Report({}, [Line("kernels", "one", FAIL)]).good
    assert not Report({}, [Line("engine", "one", COULD_NOT)]).good


def test_another_file_is_no_report(tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text('{"rows": []}')
    assert gpu.main(["--markdown", str(other)]) == 1
    assert "is not what `python -m loadtests.gpu` writes: KeyError('machine')" in capsys.readouterr().err
    report = Report({"gpu": "x"}, [Line("stock", "one", PASS, "", {"ours": 1.5})], {"stock": 2.0})
    report.write(tmp_path / "report.json")
    assert read(tmp_path / "report.json") == report
    assert as_markdown(report).count("\n| one |") == 1
