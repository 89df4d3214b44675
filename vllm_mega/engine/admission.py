"""Admission: which waiting requests fit the slots. Pure; the scheduler calls it.

A step can run requests only if the union of their adapters fits the slots. Requests that do not fit
wait; others may pass them, but only so many times: then the requests that need slots queue up behind
the one that waits, the running ones finish, and it gets its turn. So nothing starves.
"""

from __future__ import annotations

from collections.abc import Iterable


class SlotBudget:
    """The adapters of one step: a short-lived set that never outgrows the slots."""

    def __init__(self, slots: int, running: Iterable[frozenset[str]] = ()) -> None:
        self.slots = slots
        self.adapters: set[str] = set().union(*running)

    def fits(self, need: frozenset[str]) -> bool:
        """Whether a request that needs these adapters can join the step."""
        return len(self.adapters | need) <= self.slots

    def take(self, need: frozenset[str]) -> None:
        """Let it join."""
        self.adapters |= need


class Admission:
    """Decides request by request, in the order in which the scheduler asks; remembers who was passed."""

    def __init__(self, slots: int, max_passes: int = 32) -> None:
        self.slots = slots
        self.max_passes = max_passes
        self._passes: dict[str, int] = {}
        self._budget = SlotBudget(slots)
        self._held: list[str] = []

    def begin(self, running: Iterable[frozenset[str]]) -> None:
        """Start a step with the adapters of the requests that are running."""
        self._budget = SlotBudget(self.slots, running)
        self._held = []

    def admits(self, request_id: str, need: frozenset[str]) -> bool:
        """Whether this waiting request may run in this step."""
        if not need:
            return True
        blocked = any(self._passes[held] >= self.max_passes for held in self._held)
        if blocked or not self._budget.fits(need):
            self._passes.setdefault(request_id, 0)
            self._held.append(request_id)
            return False
        return True

    def joined(self, request_id: str, need: frozenset[str]) -> None:
        """The request runs now: it takes its slots, and has passed those held before it."""
        self._passes.pop(request_id, None)
        if need:
            self._budget.take(need)
            for held in self._held:
                self._passes[held] += 1

    def forget(self, request_id: str) -> None:
        """The request is gone."""
        self._passes.pop(request_id, None)
