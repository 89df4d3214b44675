"""The processor, where vLLM computes on it: what it can, the kernel that is compiled for it, and OpenMP."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from vllm_mega.doctor.finding import Finding

SHOWN = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "amx_tile")


def processor() -> Iterator[Finding]:
    """What is found on a machine whose vLLM is built for CPUs; nothing of others.

    Raises:
        ConfigError: vLLM is not installed.
        KernelError: the CPU kernel cannot be compiled.
    """
    from vllm_mega.http.launch import runs_on_cpu

    if not runs_on_cpu():
        return
    import torch

    yield abilities(torch.cpu.get_capabilities(), len(os.sched_getaffinity(0)))
    yield openmp(os.environ, Path(sys.prefix))
    yield _kernel()


def abilities(has: Mapping[str, Any], cores: int) -> Finding:
    """Whether vLLM's CPU build runs, and in which type `serve` computes.

    Args:
        has: `torch.cpu.get_capabilities()`.
        cores: that this process may use.
    """
    told = ", ".join(name for name in SHOWN if has.get(name))
    found = f"{has['architecture']}, {cores} cores" + (f", {told}" if told else "")
    if has["architecture"] != "x86_64":
        return Finding("processor", "ok", found)
    if not has.get("avx2"):
        change = "vLLM's build for CPUs needs AVX2: take another machine"
        return Finding("processor", "problem", f"{found}, no avx2", change)
    slow = "" if has.get("avx512_bf16") else "; no AVX-512 BF16, so `serve` computes in float32"
    return Finding("processor", "ok", found + slow)


def openmp(environ: Mapping[str, str], prefix: Path) -> Finding:
    """Whether all that is preloaded is there, and Intel's OpenMP among it, which `serve` preloads itself."""
    named = environ.get("LD_PRELOAD", "").replace(":", " ").split()
    if missing := [name for name in named if "/" in name and not Path(name).is_file()]:
        change = "take it out of LD_PRELOAD, or give its place"
        return Finding("preloads", "warning", f"{', '.join(missing)}: not there, and so left out", change)
    library = prefix / "lib" / "libiomp5.so"
    if library.is_file() or any("omp" in name for name in named):
        return Finding("preloads", "ok", _omp(named) or f"{library}, by `serve`")
    return Finding(
        "preloads", "warning", "no Intel OpenMP: the GNU one computes slower", "pip install intel-openmp"
    )


def _omp(named: Collection[str]) -> str:
    return next((name for name in named if "omp" in name), "")


def _kernel() -> Finding:
    from vllm_mega.kernels.native import functions, has_amx

    types = ", ".join(str(kind).removeprefix("torch.") for kind in functions())
    return Finding("CPU kernel", "ok", f"compiled for {types}" + (", with AMX" if has_amx() else ""))
