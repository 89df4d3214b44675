"""Streams and events that know what has happened before: a device's, without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stream:
    """What is launched on it comes after what it knows."""

    def __init__(self) -> None:
        self.known: set[object] = set()

    def wait_stream(self, other: Stream) -> None:
        self.known |= other.known

    def record_event(self) -> frozenset[object]:
        return frozenset(self.known)

    def synchronize(self) -> None:
        """Only for what is forgotten does the host wait."""

    def wait_event(self, event: frozenset[object]) -> None:
        self.known |= event


class Cuda:
    """Stands for `torch.cuda`. It cannot be waited for: that would stop the host."""

    def __init__(self) -> None:
        self.steps = self._current = Stream()
        """On which steps are launched."""

    def Stream(self, device: Any) -> Stream:  # noqa: N802
        return Stream()

    def current_stream(self, device: Any) -> Stream:
        return self._current

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self._current = self._current, stream
        try:
            yield
        finally:
            self._current = before
