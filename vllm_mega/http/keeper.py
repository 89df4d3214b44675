"""Keeps a server: python -m vllm_mega.http.keeper [--beside PROGRAM] COMMAND ...

The command runs as a child; so does what `companion.Beside` describes, as long as the command runs. When it
ends, whichever way, all that it started and what lies in its temporary folder goes as well; when the keeper
ends, so does the command. SIGTERM and SIGINT are for the command; while it starts up it may be deaf to them
(vLLM 0.32 loses them), and then it is ended by force. Imports nothing but the standard library: it stays in
memory as long as the server.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType

from vllm_mega.home import RUN_FOLDER
from vllm_mega.http.companion import Beside, Companion

READY = "ready"
"""A file in the run folder: the server hears signals now."""
PREFIX = "mega-"
"""Of run folders."""
PATIENCE = 3.0
"""Seconds for what remains to end by itself, which is what frees shared memory."""
LONGEST = 107 - len("/12345678-1234-1234-1234-123456789012")
"""A folder with a longer path cannot have vLLM's sockets."""
_LIBC = ctypes.CDLL(None)
_SUBREAPER, _DEATH_SIGNAL = 36, 1
"""Of prctl(2)."""
_TRACKER = b"multiprocessing.resource_tracker"


def main(command: Sequence[str], beside: Beside | None = None) -> int:
    """Run the command to its end; its exit code, 128 and more where a signal ended it.

    `beside` runs from when the command is ready until it ends.
    """
    _control(_SUBREAPER, 1)  # what the command leaves behind becomes ours
    place = _place()
    _sweep(place)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place, ignore_cleanup_errors=True) as folder:
        _lock(Path(folder, "locking"))
        Path(folder, "locking").rename(Path(folder, "keeper"))  # sweepers see no lock that nobody holds yet
        environment = {**os.environ, "TMPDIR": folder, RUN_FOLDER: folder}
        dying = partial(end_with, os.getpid(), signal.SIGKILL)
        child = subprocess.Popen(command, env=environment, preexec_fn=dying)  # noqa: PLW1509

        forced: list[int] = []

        def pass_on(number: int, _: FrameType | None) -> None:
            if Path(folder, READY).exists():
                child.send_signal(number)
            else:
                forced.append(number)
                child.kill()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup(1) has it
                signal.signal(number, pass_on)
        companion = Companion(beside, environment, Path(folder, READY)) if beside else None
        code = child.wait()
        if companion is not None:
            companion.stop(PATIENCE)
        _end_children()
    return 128 + forced[0] if forced else code if code >= 0 else 128 - code


def _lock(file: Path) -> int:
    """Lock a file until this process ends.

    Raises:
        BlockingIOError: its keeper lives.
    """
    lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _sweep(place: str) -> None:
    """Remove the run folders of keepers that were killed, when nobody was left to do it."""
    for file in Path(place).glob(f"{PREFIX}*/keeper"):
        with suppress(OSError):  # its keeper lives, or it goes just now
            if file.lstat().st_uid == os.geteuid():
                lock = _lock(file)
                shutil.rmtree(file.parent, ignore_errors=True)
                os.close(lock)


def end_with(parent: int, number: int) -> None:
    """For a child that is about to become another program: it gets this signal when its parent ends.

    To be exact, when the thread ends that has started it.
    """
    _control(_DEATH_SIGNAL, number)
    if os.getppid() != parent:
        os._exit(1)


def _place() -> str:
    """Where the run folder goes: the temporary folder, unless its path is too long for sockets."""
    usual = tempfile.gettempdir()
    return usual if len(usual) + len("/mega-12345678") <= LONGEST else "/tmp"  # noqa: S108


def _end_children() -> None:
    """End all children, and theirs, which become ours; last those that clean up after the others."""
    end = time.monotonic() + PATIENCE
    while children := _children():
        late = time.monotonic() > end
        for process in children:
            if late or _TRACKER not in _command(process):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def _children() -> list[int]:
    """Processes whose parent is this one, those that have ended left out and buried."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return list(_processes_of(os.getpid()))


def _processes_of(parent: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_bytes()
            except OSError:
                continue
            if int(stat.rpartition(b")")[2].split()[1]) == parent:
                yield int(entry.name)


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def _control(option: int, value: int) -> None:
    _LIBC.prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    if sys.argv[1] == "--beside":
        sys.exit(main(sys.argv[3:], Beside.of(sys.argv[2])))
    sys.exit(main(sys.argv[1:]))
