"""Nothing outlives a server: its keeper ends what it leaves behind, and it ends with its keeper."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from vllm_mega.http import keeper

SERVER = """
import os, pathlib, signal, subprocess, sys, tempfile, time
told, how = pathlib.Path(sys.argv[1]), sys.argv[2]
sleep = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
child = [sys.executable, "-c", f"import subprocess, time; subprocess.Popen({sleep!r}); time.sleep(600)"]
subprocess.Popen(child)
signal.signal(signal.SIGTERM, (lambda *_: sys.exit(5)) if how == "hears" else signal.SIG_IGN)
folder = pathlib.Path(tempfile.gettempdir())
(folder / "socket").touch()
if how == "hears":
    (folder / "ready").touch()
told.with_suffix(".new").write_text(str(folder))
told.with_suffix(".new").rename(told)
time.sleep(0 if how == "ends" else 600)
sys.exit(3)
"""


class Kept:
    """A server with children of its own, and its keeper."""

    def __init__(self, root: Path, how: str) -> None:
        root.mkdir(exist_ok=True)
        told = root / "told"
        command = [sys.executable, "-m", "vllm_mega.http.keeper", sys.executable, "-c", SERVER]
        # A job in the background, as this program may be one, ignores SIGINT; so would the keeper.
        hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        self.keeper = subprocess.Popen([*command, str(told), how], preexec_fn=hears)  # noqa: PLW1509
        while not told.exists():
            time.sleep(0.02)
        self.folder = Path(told.read_text())
        process = psutil.Process(self.keeper.pid)
        self.all = [process]
        while how != "ends" and len(self.all) < 4:
            self.all = [process, *process.children(recursive=True)]
            time.sleep(0.02)

    def gone(self) -> bool:
        """Whether all of them end within ten seconds."""
        return not psutil.wait_procs(self.all, timeout=10)[1]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[list[Kept]]:
    started: list[Kept] = []
    yield started
    for kept in started:
        for process in kept.all:
            if process.is_running():
                process.kill()
        kept.keeper.wait()


def test_it_ends_as_the_server_ends_and_takes_the_rest_along(tmp_path: Path, start: list[Kept]) -> None:
    start.append(kept := Kept(tmp_path, "ends"))
    assert kept.keeper.wait(20) == 3
    assert not kept.folder.exists()


def test_a_server_that_hears_is_asked(tmp_path: Path, start: list[Kept]) -> None:
    start.append(kept := Kept(tmp_path, "hears"))
    assert kept.folder.stat().st_mode & 0o777 == 0o700
    kept.keeper.terminate()
    assert kept.keeper.wait(20) == 5
    assert kept.gone()
    assert not kept.folder.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_starts_up_is_ended(tmp_path: Path, start: list[Kept], number: int) -> None:
    start.append(kept := Kept(tmp_path, "is deaf"))
    kept.keeper.send_signal(number)
    assert kept.keeper.wait(20) == 128 + number
    assert kept.gone()
    assert not kept.folder.exists()


def test_what_is_to_be_ignored_is(tmp_path: Path, start: list[Kept]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        start.append(kept := Kept(tmp_path, "is deaf"))
    finally:
        signal.signal(signal.SIGHUP, before)
    kept.keeper.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert kept.keeper.poll() is None


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("victim", [1, 0])
def test_kills_leave_nothing(tmp_path: Path, start: list[Kept], victim: int, stopped: bool) -> None:
    start.append(kept := Kept(tmp_path, "hears"))
    if stopped and victim:
        kept.all[3].suspend()
    kept.all[victim].kill()
    if victim:  # the keeper is left to tidy up
        assert kept.keeper.wait(20) == 128 + signal.SIGKILL
        assert kept.gone()
        assert not kept.folder.exists()
    else:  # the server goes with it; what vLLM has started has a lifeline of its own
        assert not psutil.wait_procs(kept.all[:2], timeout=10)[1]
        alive, strange = Kept(tmp_path / "another", "hears"), kept.folder.with_name("mega-strange")
        start.append(alive)
        strange.mkdir()
        assert not kept.folder.exists(), "the next keeper sweeps"
        assert strange.exists()
        strange.rmdir()
        start.append(Kept(tmp_path / "third", "hears"))
        assert alive.folder.exists(), "and leaves what is in use"


def test_long_temporary_folders_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper.tempfile, "gettempdir", lambda: "/" + 60 * "x")
    assert keeper._place() == "/tmp"  # noqa: S108
    monkeypatch.setattr(keeper.tempfile, "gettempdir", lambda: "/" + 40 * "x")
    assert keeper._place() == "/" + 40 * "x"
