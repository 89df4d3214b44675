"""Processors, judged by what torch says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cpus import WITH_BFLOAT16, WITHOUT_BFLOAT16
from vllm_mega.doctor.processor import abilities, openmp, processor
from vllm_mega.errors import ConfigError
from vllm_mega.http import launch


@pytest.mark.parametrize(
    ("has", "status", "found"),
    [
        ({**WITH_BFLOAT16, "avx2": True}, "ok", "x86_64, 4 cores, avx2, avx512_bf16"),
        (
            {**WITHOUT_BFLOAT16, "avx2": True},
            "ok",
            "x86_64, 4 cores, avx2; no AVX-512 BF16, so `serve` computes in float32",
        ),
        ({"architecture": "x86_64"}, "problem", "x86_64, 4 cores, no avx2"),
        ({"architecture": "aarch64"}, "ok", "aarch64, 4 cores"),
    ],
)
def test_abilities(has: dict[str, object], status: str, found: str) -> None:
    finding = abilities(has, 4)
    assert (finding.status, finding.found) == (status, found)


def test_openmp(tmp_path: Path) -> None:
    assert openmp({}, tmp_path).change == "pip install intel-openmp"
    (tmp_path / "lib").mkdir()
    library = tmp_path / "lib" / "libiomp5.so"
    library.touch()
    assert openmp({}, tmp_path).found == f"{library}, by `serve`"
    assert openmp({"LD_PRELOAD": f"{library}:libother.so"}, Path("/nowhere")).found == str(library)


def test_what_is_preloaded_must_be_there(tmp_path: Path) -> None:
    gone = tmp_path / "libiomp5.so"
    finding = openmp({"LD_PRELOAD": f"{gone} libtcmalloc.so"}, tmp_path)
    assert finding.status == "warning"
    assert finding.found == f"{gone}: not there, and so left out"


def test_a_gpus_machine_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "runs_on_cpu", lambda: False)
    assert list(processor()) == []


def test_without_vllm_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> bool:
        raise ConfigError("vLLM is not installed")

    monkeypatch.setattr(launch, "runs_on_cpu", refuse)
    with pytest.raises(ConfigError, match="not installed"):
        list(processor())


def test_this_machine_computes() -> None:
    found = {one.name: one for one in processor()}
    assert {one.status for one in found.values()} == {"ok"}
    assert found["CPU kernel"].found.startswith("compiled for float32, bfloat16")
