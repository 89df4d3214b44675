"""The processes of a server that a load test has started, by what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from vllm_mega.demo.server import start
from vllm_mega.errors import MegaError

NAMES = {"engine": "VLLM::EngineCor", "worker": "VLLM::Worker"}
"""How they begin; the keeper is the process that was started, the API server its child."""


def processes(root: int) -> dict[str, psutil.Process]:
    """Those below the keeper `root` by what they do: keeper, api, engine, worker, and others by their id."""
    keeper = psutil.Process(root)
    by_kind = {"keeper": keeper}
    for process in keeper.children(recursive=True):
        name = process.name()
        known = [kind for kind, begin in NAMES.items() if name.startswith(begin)]
        kind = "api" if process.ppid() == root and "api" not in by_kind else str(process.pid)
        by_kind[known[0] if known else kind] = process
    return by_kind


def processes_with(kind: str, root: int, limit: float = 10.0) -> dict[str, psutil.Process]:
    """As `processes`, of several looks, the last of which has seen `kind`.

    A look at all processes is no snapshot: it may miss one that was there before and after.

    Raises:
        MegaError: there was none within `limit` seconds.
    """
    seen = dict[str, psutil.Process]()
    end = time.monotonic() + limit
    while kind not in (look := processes(root)):
        seen |= look
        if time.monotonic() > end:
            names = ", ".join(f"{name} ({process.name()})" for name, process in seen.items())
            raise MegaError(f"the server has no process {kind}; it has {names}")
        time.sleep(0.1)
    return seen | look


def keeper_of(port: int) -> int:
    """The process that was started to serve on `port`.

    Raises:
        MegaError: there is none.
    """
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "vllm_mega.http.keeper" in words and str(port) in words:
            return int(process.pid)
    raise MegaError(f"nobody keeps a server on port {port}")


def open_files(process: int) -> list[str]:
    """What the process has open of adapters; what is deleted ends with "(deleted)"."""
    links = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links.append(str(descriptor.readlink()))
    return [link for link in links if "adapter_" in link]


@contextmanager
def started(command: Sequence[str], folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server whose temporary folder is `folder`; at the end of the block all of it is ended by force."""
    with log.open("ab") as out:
        environment = {**os.environ, "TMPDIR": str(folder)}
        server = start(command, out, environment)
    try:
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def seconds_until_gone(running: Sequence[psutil.Process], limit: float) -> float | None:
    """How long it takes until none of them runs; None: longer than `limit`."""
    begun = time.monotonic()
    _, left = psutil.wait_procs(running, timeout=limit)
    left = [process for process in left if process.status() != psutil.STATUS_ZOMBIE]
    return None if left else time.monotonic() - begun
