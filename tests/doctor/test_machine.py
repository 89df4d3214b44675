"""Numbers of a machine, judged."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from vllm_mega.doctor.machine import (
    DISK,
    FILES,
    GIB,
    MEMORY,
    MIB,
    available,
    existing,
    machine,
    memory,
    open_files,
    room,
)

MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    8388608 kB\n"


@pytest.mark.parametrize(
    ("free", "status"),
    [
        (0, "problem"),
        (DISK[0] - 1, "problem"),
        (DISK[0], "warning"),
        (DISK[1] - 1, "warning"),
        (DISK[1], "ok"),
    ],
)
def test_room(free: int, status: str) -> None:
    finding = room("home", Path("/x"), free, DISK, "make room")
    assert finding.status == status
    assert finding.change == ("" if status == "ok" else "make room")


def test_room_is_told_in_units() -> None:
    assert room("home", Path("/x"), 3 * GIB + GIB // 2, DISK, "").found == "3.5 GiB free in /x"
    found = room("home", Path("/x"), 150 * MIB, DISK, "").found
    assert found == "150 MiB free in /x, and 2.0 GiB is enough"


@pytest.mark.parametrize(
    ("free", "status"),
    [(None, "ok"), (MEMORY[1], "ok"), (MEMORY[1] - 1, "warning"), (MEMORY[0] - 1, "problem")],
)
def test_memory(free: int | None, status: str) -> None:
    finding = memory(free)
    assert finding.status == status
    assert bool(finding.change) == (status != "ok")


@pytest.mark.parametrize(
    ("limit", "status"),
    [(resource.RLIM_INFINITY, "ok"), (FILES[1], "ok"), (1024, "warning"), (FILES[0] - 1, "problem")],
)
def test_open_files(limit: int, status: str) -> None:
    assert open_files(limit).status == status


@pytest.mark.parametrize(
    ("cgroup", "free"),
    [
        (None, 8 * GIB),
        (("max\n", "123\n"), 8 * GIB),
        ((f"{6 * GIB}\n", f"{4 * GIB}\n"), 2 * GIB),
        ((f"{64 * GIB}\n", "0\n"), 8 * GIB),
    ],
)
def test_a_container_may_take_less_than_the_system_has(cgroup: tuple[str, str] | None, free: int) -> None:
    assert available(MEMINFO, cgroup) == free


def test_where_nothing_is_told_the_memory_is_not_known() -> None:
    assert available("", None) is None


def test_a_folder_that_is_not_there_yet_is_on_the_disk_of_one_that_is(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path


def test_the_bank_is_one_of_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_MEGA_HOME", str(tmp_path / "home"))
    found = {one.name: one.found for one in machine(tmp_path / "bank")}
    assert found["bank's disk"].endswith(str(tmp_path / "bank"))
    assert found["home"].endswith(str(tmp_path / "home"))
    assert "bank's disk" not in {one.name for one in machine(None)}
