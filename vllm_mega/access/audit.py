"""The audit log: one JSON object a line for every refused try, and for every change. No texts, no keys."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import msgspec

from vllm_mega.access.rate import Rate
from vllm_mega.errors import ConfigError

REFUSALS_PER_MINUTE = 600
"""Lines; more tries are only counted, or strangers could fill the disk. Changes are never left out."""


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody tried, or did."""

    at: float
    """Seconds since 1970."""
    who: str
    """Name of the principal; empty: nobody that is known."""
    status: int
    """Of HTTP, that it got."""
    client: str = ""
    """Its address."""
    unwritten: int = 0
    """Tries before this line that have none of their own."""
    did: str = ""
    """What was changed ("remember"); empty: the try was refused."""
    namespace: str = ""
    """Where it was changed."""
    ids: tuple[str, ...] = ()
    """Of the memories that were changed."""


class Audit:
    """Appends lines to a file of mode 0600; several processes may write to one. Thread-safe.

    Args:
        path: of the file; made if need be.
        clock: seconds, that never go back, for the number of lines.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the file.

        Raises:
            ConfigError: it cannot be opened.
        """
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"the audit log {path} cannot be opened: {error.strerror}") from error
        self._refusals = Rate(REFUSALS_PER_MINUTE, clock)
        self._unwritten = 0
        self._lock = Lock()

    def refused(self, who: str, status: int, client: str = "") -> None:
        """Append a line; see `Line`.

        Raises:
            OSError: the disk refuses.
        """
        with self._lock:
            if not self._refusals.take():
                self._unwritten += 1
                return
            line = Line(time.time(), who, status, client, self._unwritten)
            self._unwritten = 0
            self._write(line)

    def changed(
        self, who: str, status: int, did: str, namespace: str, ids: tuple[str, ...], client: str = ""
    ) -> None:
        """Append a line; see `Line`.

        Raises:
            OSError: the disk refuses.
        """
        with self._lock:
            self._write(Line(time.time(), who, status, client, did=did, namespace=namespace, ids=ids))

    def _write(self, line: Line) -> None:
        os.write(self._fd, msgspec.json.encode(line) + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
