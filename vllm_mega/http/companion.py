"""A program beside a server: started when the server is ready, started again when it ends, its lines told.

Imports nothing but the standard library: it is a part of the keeper.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

FIRST_S, MOST_S = 1.0, 60.0
"""Seconds until it is started again; twice as many each time, but after ..."""
LONG_S = 120.0
"""... a life of so many seconds it is as if it had never ended."""
LOOK_S = 0.2
"""Between two looks whether the server is ready."""


@dataclass(frozen=True)
class Beside:
    """What runs beside the server."""

    name: str
    """Stands before each of its lines."""
    command: list[str]
    """Begins with the path of a program."""
    environment: dict[str, str | None] = field(default_factory=dict)
    """Variables that are others than the server's; None: it has none of this name."""

    def word(self) -> str:
        """As one word of a command line."""
        return json.dumps(vars(self))

    @classmethod
    def of(cls, word: str) -> Beside:
        """What `word` has made of it."""
        return cls(**json.loads(word))

    def surroundings(self, environ: Mapping[str, str]) -> dict[str, str]:
        """All variables that it gets, where those of the server are `environ`."""
        merged = {**environ, **self.environment}
        return {name: value for name, value in merged.items() if value is not None}


class Companion:
    """Keeps the program running, in a thread."""

    def __init__(self, beside: Beside, environ: Mapping[str, str], ready: Path) -> None:
        """Wait for the file `ready`, then start it; `environ` has the server's variables."""
        self._beside, self._ready = beside, ready
        self._environment = beside.surroundings(environ)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Ask it to end, and wait for that so long at most."""
        with self._lock:
            self._over.set()
            if self._process is not None and self._process.poll() is None:
                self._process.terminate()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._ready.exists():
            if self._over.wait(LOOK_S):
                return
        wait = FIRST_S
        while (process := self._start()) is not None:
            started = time.monotonic()
            self._tell(process)
            code = process.wait()
            wait = FIRST_S if time.monotonic() - started > LONG_S else wait
            if self._over.is_set():
                return
            _print(f"{self._beside.name} has ended with {code}, and is started again in {wait:g} s")
            self._over.wait(wait)
            wait = min(2 * wait, MOST_S)

    def _start(self) -> subprocess.Popen[bytes] | None:
        """The program in a session of its own: Ctrl-C is for the server. None: it is over."""
        command: Sequence[str] = [sys.executable, "-m", "vllm_mega.http.aside", str(os.getpid())]
        with self._lock:
            if self._over.is_set():
                return None
            self._process = subprocess.Popen(
                [*command, *self._beside.command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._process

    def _tell(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None, "it is a pipe"
        with process.stdout as lines:
            for line in lines:
                _print(f"[{self._beside.name}] {line.decode(errors='replace').rstrip()}")


def _print(line: str) -> None:
    with suppress(OSError, ValueError):  # nobody reads any more: no reason to stop
        print(line, flush=True)  # noqa: T201
