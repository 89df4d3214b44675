"""The machine: processor, room on disk and in shared memory, memory, open files. Judged by numbers."""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vllm_mega.doctor.finding import Finding, Status
from vllm_mega.home import home

MIB, GIB = 1024**2, 1024**3
DISK = (100 * MIB, 2 * GIB)
"""Free bytes below which something stops, and below which somebody should know."""
SHARED = (16 * MIB, 512 * MIB)
"""The same of /dev/shm, where processes of one server have semaphores and, with several workers, messages."""
MEMORY = (GIB, 4 * GIB)
"""The same of memory: the smallest model with a KV cache of 2 GiB takes 4."""
FILES = (256, 4096)
"""The same of open files: at most half of them are held for requests that wait."""
SHM = Path("/dev/shm")  # noqa: S108


def machine(bank: Path | None) -> Iterator[Finding]:
    """What a server, and the bank at `bank`, have of this machine."""
    for name, folder, change in _folders(bank):
        yield room(name, folder, shutil.disk_usage(existing(folder)).free, DISK, change)
    if SHM.is_dir():
        free = shutil.disk_usage(SHM).free
        yield room("shared memory", SHM, free, SHARED, "in a container: --shm-size=1g, or --ipc=host")
    yield memory(available(_read(Path("/proc/meminfo")), _cgroup()))
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def room(name: str, folder: Path, free: int, bounds: tuple[int, int], change: str) -> Finding:
    """Whether so many free bytes are enough; `bounds`: below the first is a problem, the second a warning."""
    found, status = f"{_size(free)} free in {folder}", graded(free, bounds)
    if status == "ok":
        return Finding(name, status, found)
    return Finding(name, status, f"{found}, and {_size(bounds[1])} is enough", change)


def memory(free: int | None) -> Finding:
    """Whether a small model can be loaded; None: nobody knows how much there is."""
    if free is None:
        return Finding("memory", "ok", "not known on this system")
    status = graded(free, MEMORY)
    change = "end other programs, take a smaller model, or lower VLLM_CPU_KVCACHE_SPACE (GiB)"
    return Finding("memory", status, f"{_size(free)} available", "" if status == "ok" else change)


def open_files(limit: int) -> Finding:
    """Whether a process may open enough files; -1: any number."""
    if limit == resource.RLIM_INFINITY:
        return Finding("open files", "ok", "any number")
    status = graded(limit, FILES)
    change = "" if status == "ok" else f"ulimit -n {FILES[1]}, or more"
    return Finding("open files", status, f"{limit} a process", change)


def graded(value: int, bounds: tuple[int, int]) -> Status:
    """A problem below the first bound, a warning below the second."""
    least, little = bounds
    return "problem" if value < least else "warning" if value < little else "ok"


def available(meminfo: str, cgroup: tuple[str, str] | None) -> int | None:
    """Bytes of memory that can be had: of the system's, or of what a container may take if that is less.

    Args:
        meminfo: of /proc.
        cgroup: `memory.max` and `memory.current` of the container; None: there are none.
    """
    lines = [line.split() for line in meminfo.splitlines() if line.startswith("MemAvailable:")]
    system = int(lines[0][1]) * 1024 if lines else None
    if cgroup is None or not cgroup[0].strip().isdigit():
        return system
    left = int(cgroup[0]) - int(cgroup[1])
    return left if system is None else min(system, left)


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    return next(one for one in (path, *path.parents) if one.exists())


def _folders(bank: Path | None) -> Iterator[tuple[str, Path, str]]:
    yield "home", home(), "make room, or set VLLM_MEGA_HOME to a folder elsewhere"
    yield "temporary files", Path(tempfile.gettempdir()), "make room, or set TMPDIR to a folder elsewhere"
    if bank is not None:
        yield "bank's disk", bank.absolute(), "make room: new adapters and the catalog are written there"


def _cgroup() -> tuple[str, str] | None:
    folder = Path("/sys/fs/cgroup")
    most, now = _read(folder / "memory.max"), _read(folder / "memory.current")
    return (most, now) if most and now else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size // MIB} MiB"
