"""The numbers by which an engine knows mixtures and adapters: two kinds, that must not be mixed up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NewType

MixtureId = NewType("MixtureId", int)
"""What requests and their tokens carry: of a mixture, or of a plain adapter."""
ComponentId = NewType("ComponentId", int)
"""What has a place in host memory and in slots: a component of mixtures, or a plain adapter.

A plain adapter has one number for both, vLLM's.
"""
FIRST_ID = 2**30
LAST_ID = 2**31 - 1
"""Of mixtures, and of components: above every plain adapter's, and within int32 (vLLM's second runner)."""


def plain(lora_int_id: int) -> ComponentId:
    """The component that a plain adapter is."""
    assert lora_int_id < FIRST_ID, "this is the number of a mixture"
    return ComponentId(lora_int_id)


class MixtureIds:
    """Engine-local ids: one per distinct live mixture, never two for one, never one for two."""

    def __init__(self, capacity: int = 65536) -> None:
        self._capacity = capacity
        self._ids: dict[str, MixtureId] = {}
        self._taken: set[int] = set()
        self._next = FIRST_ID

    def get(self, name: str, live: Callable[[], Iterable[str]]) -> MixtureId:
        """The id of the mixture called `name`.

        Args:
            name: the mixture's digest name.
            live: names of the mixtures that requests are using; asked only when room is needed.
        """
        if name not in self._ids:
            if len(self._ids) >= self._capacity:
                self.keep(live())
                self._capacity = max(self._capacity, 2 * len(self._ids))
            while self._next in self._taken or self._next > LAST_ID:
                self._next = self._next + 1 if self._next < LAST_ID else FIRST_ID
            self._ids[name] = MixtureId(self._next)
            self._taken.add(self._next)
            self._next += 1
        return self._ids[name]

    def keep(self, names: Iterable[str]) -> None:
        """Forget all mixtures but those with these names."""
        live = set(names)
        self._ids = {n: i for n, i in self._ids.items() if n in live}
        self._taken = set(self._ids.values())
