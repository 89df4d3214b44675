"""When memories expire, the next first: while none does, asking costs a comparison."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from vllm_mega.bank.catalog.records import MemoryName

_STALE = 64
"""Entries that may be out of date, beside as many as there are memories."""


class Expirations:
    """Moments by memory. Not thread-safe."""

    def __init__(self) -> None:
        """No memory expires yet."""
        self._at: dict[MemoryName, float] = {}
        self._next: list[tuple[float, MemoryName]] = []

    def set(self, name: MemoryName, at: float | None) -> None:
        """Let the memory expire at `at` (seconds since 1970), and at no other time; None: never."""
        if at is None:
            self._at.pop(name, None)
            return
        self._at[name] = at
        heappush(self._next, (at, name))
        if len(self._next) > 2 * len(self._at) + _STALE:
            self._next = [(moment, one) for one, moment in self._at.items()]
            heapify(self._next)

    def over(self, now: float) -> list[MemoryName]:
        """Those whose moment has come since the last time."""
        gone: list[MemoryName] = []
        while self._next and self._next[0][0] <= now:
            at, name = heappop(self._next)
            if self._at.get(name) == at:
                del self._at[name]
                gone.append(name)
        return gone
