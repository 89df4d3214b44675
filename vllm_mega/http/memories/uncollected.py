"""Keeps Python's collector from walking what a thread makes, again and again while it makes it.

The collector holds the interpreter, and so the event loop, for as long as it walks: for some hundred thousand
new objects that is a tenth of a second. Objects without cycles need none of it.
"""

from __future__ import annotations

import gc
from threading import Lock
from types import TracebackType


class Uncollected:
    """A context in which nothing is collected, in the whole process; several threads may be within."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._was_enabled = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._was_enabled:
                gc.enable()


uncollected = Uncollected()
