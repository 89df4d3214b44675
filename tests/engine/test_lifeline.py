"""Processes that vLLM starts end with the one that started them; no engine here."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vllm_mega.engine.lifeline import INTERVAL

PARENT = """
import multiprocessing, os, pathlib, sys, threading, time
from vllm_mega.engine.lifeline import end_with_parent

def child(told):
    end_with_parent()
    end_with_parent()
    watching = sum(thread.name == "mega-lifeline" for thread in threading.enumerate())
    told.send((os.getpid(), watching))
    time.sleep(600)

def grandparent(told, context, name):
    end_with_parent()
    context.Process(target=child, args=(told,), name=name).start()
    told.send((os.getpid(), 0))
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    heard, told = context.Pipe(False)
    name = sys.argv[2]
    context.Process(target=grandparent, args=(told, context, name), name="EngineCore").start()
    print(sorted([heard.recv(), heard.recv()], key=lambda pair: pair[1]), flush=True)
    time.sleep(600)
"""


IMPORTING = """
import multiprocessing, os, sys, time
from vllm_mega.engine.lifeline import end_with_parent

class Slow:
    def __reduce__(self):
        return loading, ()

def loading():
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    context.Process(target=print, args=(Slow(),), name="EngineCore").start()
    time.sleep(600)
else:
    end_with_parent()
"""


def test_it_ends_while_it_still_imports(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(IMPORTING)
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(1)
        assert child.is_running()
        parent.kill()
        assert not psutil.wait_procs([child], timeout=10)[1]


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
@pytest.mark.parametrize(("name", "watches"), [("VllmWorker-0", 1), ("of-the-user", 0)])
def test_it_ends_with_its_parent_unless_it_is_the_users(
    tmp_path: Path, method: str, name: str, watches: int
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PARENT)
    run = tmp_path / "run"
    run.mkdir()
    command = ["env", f"VLLM_MEGA_RUN_FOLDER={run}", sys.executable, str(program), method, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        (engine, _), (worker, watching) = eval(parent.stdout.readline())  # noqa: S307  # our own
        assert watching == watches
        processes = [psutil.Process(engine), psutil.Process(worker)]
        time.sleep(1)
        assert all(process.is_running() for process in processes), "their parents live"
        parent.kill()
    ending, staying = processes[: 1 + watches], processes[1 + watches :]
    assert not psutil.wait_procs(ending, timeout=10)[1]
    assert psutil.wait_procs(staying, timeout=4 * INTERVAL)[1] == staying
    for process in staying:
        process.kill()
    assert not run.exists()
