"""What runs beside a server: from when it is ready until it ends, started again when it ends before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from vllm_mega.http import companion
from vllm_mega.http.companion import Beside, Companion

SERVER = """
import pathlib, sys, tempfile, time
time.sleep(0.5)
print("server is ready", flush=True)
(pathlib.Path(tempfile.gettempdir()) / "ready").touch()
end = pathlib.Path(sys.argv[1])
while not end.exists():
    time.sleep(0.05)
sys.exit(3)
"""
PROGRAM = """
import os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
def stop(*_):
    print("gives back", flush=True)
    (here / "gave-back").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("policy", os.sched_getscheduler(0) == os.SCHED_IDLE, os.nice(0), flush=True)
print("first to go", pathlib.Path("/proc/self/oom_score_adj").read_text().strip(), flush=True)
print("threads", os.environ["OMP_NUM_THREADS"], "preload", os.environ.get("MEGA_PRELOAD"), file=sys.stderr)
sys.stderr.flush()
(here / "new").write_text(str(os.getpid()))
(here / "new").rename(here / "pid")
time.sleep(600)
"""


def until(found: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)


class Kept:
    """A keeper with a server and a program beside it, both under our eyes."""

    def __init__(self, here: Path) -> None:
        self.here = here
        beside = Beside(
            "trainer",
            [sys.executable, "-c", PROGRAM, str(here)],
            {"OMP_NUM_THREADS": "1", "MEGA_PRELOAD": None},
        )
        command = [sys.executable, "-m", "vllm_mega.http.keeper", "--beside", beside.word()]
        with (here / "out").open("w") as out:
            self.keeper = subprocess.Popen(
                [*command, sys.executable, "-c", SERVER, str(here / "end")],
                stdout=out,
                env={**os.environ, "MEGA_PRELOAD": "x.so"},
            )

    def pid(self, other: int = 0) -> int:
        """Of the program, when it runs and has another than `other`."""
        file = self.here / "pid"
        until(lambda: file.exists() and int(file.read_text()) != other)
        return int(file.read_text())

    def lines(self) -> list[str]:
        return (self.here / "out").read_text().splitlines()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    for process in (
        [*psutil.Process(kept.keeper.pid).children(recursive=True)] if kept.keeper.poll() is None else []
    ):
        process.kill()
    kept.keeper.kill()
    kept.keeper.wait()


def test_it_yields_to_all_others_and_gives_back_when_the_server_ends(kept: Kept) -> None:
    pid = kept.pid()
    assert os.getsid(pid) == pid, "Ctrl-C would reach it before the server"
    assert kept.lines()[0] == "server is ready", "it took time from a server that started"
    (kept.here / "end").touch()
    assert kept.keeper.wait(30) == 3
    assert not psutil.pid_exists(pid)
    assert (kept.here / "gave-back").exists()
    assert kept.lines()[1:] == [
        "[trainer] policy True 19",
        "[trainer] first to go 1000",
        "[trainer] threads 1 preload None",
        "[trainer] gives back",
    ]


def test_it_is_started_again_when_it_dies(kept: Kept) -> None:
    first = kept.pid()
    os.kill(first, signal.SIGKILL)
    second = kept.pid(first)
    assert "trainer has ended with -9, and is started again in 1 s" in kept.lines()
    assert kept.keeper.poll() is None, "and the server goes on"
    assert psutil.pid_exists(second)


def test_it_does_not_outlive_a_keeper_that_is_killed(kept: Kept) -> None:
    pid = kept.pid()
    kept.keeper.kill()
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_each_time_it_waits_longer_but_not_after_a_long_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("FIRST_S", 0.05), ("MOST_S", 0.15), ("LOOK_S", 0.01)):
        monkeypatch.setattr(companion, name, value)
    (tmp_path / "ready").touch()
    beside = Beside("trainer", [sys.executable, "-c", "import sys; sys.exit(4)"])
    for long, waits in ((1e9, [0.05, 0.1, 0.15, 0.15]), (0.0, [0.05] * 4)):
        monkeypatch.setattr(companion, "LONG_S", long)
        told = list[str]()
        monkeypatch.setattr(companion, "_print", told.append)
        kept = Companion(beside, os.environ, tmp_path / "ready")
        until(lambda told=told: len(told) >= 4)
        kept.stop(30)
        assert told[:4] == [f"trainer has ended with 4, and is started again in {wait:g} s" for wait in waits]


def test_a_server_that_never_is_ready_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(companion, "LOOK_S", 0.01)
    kept = Companion(Beside("trainer", ["/nowhere"]), os.environ, tmp_path / "ready")
    time.sleep(0.2)
    kept.stop(30)
    assert kept._process is None


def test_what_runs_beside_is_one_word_of_a_command_line() -> None:
    beside = Beside("trainer", ["/bin/a b", '"'], {"A": None, "B": "é"})
    assert Beside.of(beside.word()) == beside
    assert beside.surroundings({"A": "1", "C": "2"}) == {"B": "é", "C": "2"}
