"""A server as a subprocess: started, waited for, always stopped."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from vllm_mega.errors import MegaError
from vllm_mega.http.keeper import end_with

HOST = "127.0.0.1"
STOP_SECONDS = 30.0
LOG_TAIL = 15


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    command: Sequence[str], port: int, log: Path, timeout: float, note: Callable[[float], None]
) -> Iterator[str]:
    """Run `command`, a server on `port`, while the block runs; its root URL, once /health answers.

    Args:
        command: the program and its arguments.
        port: where it will listen.
        log: gets all that it prints.
        timeout: seconds until it must answer.
        note: called about once a second while waiting, with the seconds passed.

    Raises:
        MegaError: it ended, or did not answer in time; the message has the end of its log.
    """
    with log.open("wb") as out:
        process = start(command, out)
    try:
        wait_healthy(process, port, log, timeout, note)
        yield f"http://{HOST}:{port}"
    finally:
        _stop(process)


def start(
    command: Sequence[str], out: BinaryIO, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server that writes to `out`, in this environment (None: our own)."""
    # A session of its own: Ctrl-C is for us to hear, who then stop the server in order. Are we killed, it is
    # told to stop.
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=partial(end_with, os.getpid(), signal.SIGTERM),  # noqa: PLW1509
    )


def wait_healthy(
    process: subprocess.Popen[bytes],
    port: int,
    log: Path,
    timeout: float,
    note: Callable[[float], None] = lambda _: None,
) -> None:
    """Wait until the server `process` answers on `port`; arguments and errors as `serving`."""
    begun = time.monotonic()
    while not _healthy(port):
        passed = time.monotonic() - begun
        if process.poll() is not None:
            raise MegaError(f"the server ended with exit code {process.returncode}; {_tail(log)}")
        if passed > timeout:
            raise MegaError(f"the server did not answer within {timeout:g} s; {_tail(log)}")
        note(passed)
        time.sleep(1.0)


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n  ".join([f"{log} ends with:", *[line for line in lines if line.strip()][-LOG_TAIL:]])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server, and whatever it started, if need be by force."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # Its engine processes are in its group; when all are gone, so is the group.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
