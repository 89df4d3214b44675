"""Compiles CPU kernels for the machine that they run on, once, and loads them.

A plain shared library without PyTorch's headers: it compiles in seconds, and a call from Python costs
about a microsecond, which counts when a decode step makes a hundred of them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from vllm_mega.errors import KernelError
from vllm_mega.home import home
from vllm_mega.kernels import cache

SOURCE = Path(__file__).with_name("mixture.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-ffp-contract=off")


class Layer(ctypes.Structure):
    """One layer, as the kernel sees it; see `kernels.cpu.Layer`."""

    _fields_ = (("sizes", ctypes.c_void_p), ("table", ctypes.c_void_p))


class Step(ctypes.Structure):
    """The plan of one step, as the kernel sees it; see `kernels.cpu.Plan`."""

    _fields_ = (("head", ctypes.c_void_p), ("arrays", ctypes.c_void_p * 5))


@lru_cache
def functions() -> dict[torch.dtype, Callable[..., int]]:
    """The compiled kernel, by the type of activations and weights.

    Raises:
        KernelError: no compiler, or it refuses; says what to install.
    """
    lib = _library()
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    bfloat16 = lib.mega_add_mixture_amx if has_amx() else lib.mega_add_mixture_bfloat16
    found = {torch.float32: lib.mega_add_mixture_float32, torch.bfloat16: bfloat16}
    for function in found.values():
        function.argtypes = (pointer, pointer, pointer, number, pointer, number, number)
        function.restype = ctypes.c_int
    return dict(found)


@lru_cache
def has_amx() -> bool:
    """Whether the kernel for bfloat16 is the one that uses AMX, and reads panels: see `kernels.cpu`.

    Raises:
        KernelError: see `functions`.
    """
    return bool(_library().mega_has_amx())


@lru_cache
def _library() -> ctypes.CDLL:
    return loaded()


def loaded(source: Path | None = None) -> ctypes.CDLL:
    """The library of `source` (None: the kernel of this package).

    Raises:
        KernelError: see `functions`.
    """
    path, descriptor = compiled(source)
    # OpenMP's symbols are undefined in the library, so that they become those of PyTorch's own runtime, or
    # of the one that was preloaded: two runtimes would fight for the cores.
    try:
        # The open file, which was checked, whatever its name means by now. It stays open: the loader tells
        # libraries apart by name.
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}", mode=os.RTLD_NOW)
    except OSError as error:
        raise KernelError(f"the CPU kernel {path} cannot be loaded: {error}") from error


def compiled(source: Path | None = None) -> tuple[Path, int]:
    """The shared library of `source`, compiled now if this machine has not got it yet: its place, open.

    Raises:
        KernelError: see `functions`.
    """
    source = source or SOURCE
    compiler = shlex.split(os.environ.get("CXX", "")) or ["g++" if shutil.which("g++") else "clang++"]
    if not shutil.which(compiler[0]):
        raise KernelError(
            f"the CPU kernel is compiled on first use, and there is no {compiler[0]}: "
            "install g++ or clang++, or name a C++ compiler in CXX"
        )
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    key = repr([_text(source), FLAGS, compiler, version, _processor()])
    path = home() / "kernels" / f"{source.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"

    def build(built: Path) -> None:
        _run([*compiler, *FLAGS, "-c", str(source), "-o", f"{built}.o"])
        _run([*compiler, "-shared", f"{built}.o", "-o", str(built)])

    try:
        return path, cache.opened(path, build)
    except OSError as error:
        raise KernelError(
            f"there is no place to compile the CPU kernel in ({error}): "
            "set VLLM_MEGA_HOME to a folder that can be written"
        ) from error


def _text(source: Path) -> list[str]:
    """The source, and what it may include: the headers of the kernels."""
    return [file.read_text() for file in (source, *sorted(SOURCE.parent.glob("*.h")))]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelError(f"compiling the CPU kernel failed: {shlex.join(command)}\n{done.stderr[-2000:]}")


def _processor() -> list[str]:
    """What `-march=native` depends on: the cache folder may be shared by different machines."""
    try:
        lines = set(Path("/proc/cpuinfo").read_text().splitlines())
    except OSError:
        return [platform.machine(), platform.processor()]
    return sorted(x for x in lines if x.startswith(("flags", "Features", "cpu family", "model", "CPU part")))
