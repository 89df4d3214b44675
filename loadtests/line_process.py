"""A process that answers lines on its standard input with lines on its standard output."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, cast

from vllm_mega.errors import MegaError


class LineProcess:
    """Started at once; it ends when its input does."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start it.

        Args:
            name: of the process, where it ends too early.
            command: what it runs.
            log: file that gets its standard error behind what is there; None: that goes to ours.
            env: its environment; None: ours.
        """
        self._name, self._log = name, log
        pipe = subprocess.PIPE
        with log.open("ab") if log else nullcontext() as file:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=file, env=env)

    def line(self, message: bytes = b"") -> bytes:
        """Its answer to `message`, which has no line break.

        Raises:
            MegaError: it has ended instead.
        """
        asked, answers = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        asked.write(message + b"\n")
        asked.flush()
        line = answers.readline()
        if not line:
            see = f"; see {self._log}" if self._log else ""
            raise MegaError(f"{self._name} ended with {self._process.wait()}{see}")
        return line

    def close(self) -> None:
        """Let it end; end it if it does not."""
        cast("IO[bytes]", self._process.stdin).close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
