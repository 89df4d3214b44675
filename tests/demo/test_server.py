"""The server is waited for, and always stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vllm_mega.demo.server import free_port, serving
from vllm_mega.errors import MegaError

PROGRAM = Path(__file__).with_name("fake_program.py")


def command(port: int) -> list[str]:
    return [sys.executable, str(PROGRAM), "serve", "--port", str(port)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(autouse=True)
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAKE_ANSWERS", str(tmp_path / "answers.json"))
    return tmp_path / "answers.json"


@pytest.mark.parametrize("failure", [None, KeyboardInterrupt, RuntimeError])
def test_stopped_however_the_block_ends(tmp_path: Path, failure: type[BaseException] | None) -> None:
    port = free_port()
    try:
        with serving(command(port), port, tmp_path / "log", 60.0, lambda _: None) as url:
            assert url == f"http://127.0.0.1:{port}"
            pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
            assert alive(pid)
            if failure:
                raise failure
    except (KeyboardInterrupt, RuntimeError) as error:
        assert type(error) is failure  # noqa: PT017
    assert not alive(pid)


def test_an_early_end_is_told_with_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = [sys.executable, "-c", "import sys; print('no such bank'); sys.exit(3)"]
    with (
        pytest.raises(MegaError, match=r"exit code 3; .*log ends with:\n  no such bank"),
        serving(program, free_port(), log, 60.0, lambda _: None),
    ):
        pytest.fail("it never answered")


def test_silence_is_an_error_and_the_process_ends(tmp_path: Path) -> None:
    waited: list[float] = []
    program = [
        sys.executable,
        "-c",
        "import os, pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "time.sleep(600)",
        str(tmp_path / "pid"),
    ]
    with (
        pytest.raises(MegaError, match=r"did not answer within 1\.5 s"),
        serving(program, free_port(), tmp_path / "log", 1.5, waited.append),
    ):
        pytest.fail("it never answered")
    assert waited
    assert not alive(int((tmp_path / "pid").read_text(encoding="utf-8")))


def test_it_ends_with_a_program_that_is_killed(tmp_path: Path) -> None:
    port = free_port()
    program = (
        "import sys, time; from pathlib import Path; from vllm_mega.demo.server import serving\n"
        f"with serving({command(port)!r}, {port}, Path({str(tmp_path / 'log')!r}), 60.0, lambda _: None):\n"
        "    print('on', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
        process.kill()
    end = time.monotonic() + 10
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pid)
