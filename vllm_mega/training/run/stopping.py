"""A wish to stop, that a signal may bring at any moment."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SLICE = 0.2
"""Seconds until a wish is noticed by who waits."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stop:
    """Whether somebody has said stop. Has no lock, which a signal's handler could find locked."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self) -> None:
        """Say stop."""
        self.asked = True

    def wait(self, seconds: float) -> None:
        """Sleep so long, or until somebody says stop."""
        end = time.monotonic() + seconds
        while not self.asked and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE))


@contextmanager
def stop_at_signals() -> Iterator[Stop]:
    """SIGTERM, SIGINT and SIGHUP say stop; one that comes twice does what it always does.

    One that is ignored, as nohup(1) and shells have it, stays ignored. Only the main thread may ask for this.
    """
    stop = Stop()

    def ask(number: int, _: FrameType | None) -> None:
        stop.ask()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number in heard:
            signal.signal(number, before[number])
