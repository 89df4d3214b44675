"""Which blocks of the prefix cache have something of which parts of memories. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set


class Traces:
    """Hashes of blocks by what was used when they were computed; as many as the cache has blocks, or so."""

    def __init__(self, most: int, *, copied: bool = False) -> None:
        """Begin with none.

        Args:
            most: hashes that are kept before those are looked for that are in the cache no more.
            copied: whether blocks have copies that outlive them: then no part is ever without a trace again.
        """
        self._most, self._copied = most, copied
        self._count = 0
        self._hashes: dict[str, set[bytes]] = {}

    @property
    def parts(self) -> Set[str]:
        """Parts that have left something."""
        return self._hashes.keys()

    def note(self, parts: Iterable[str], hashes: Iterable[bytes], cached: Callable[[bytes], bool]) -> None:
        """Blocks with these hashes were computed by a request that used these parts.

        Args:
            parts: by their names.
            hashes: of the blocks.
            cached: whether a block of a hash is in the cache; asked only when room is needed.
        """
        some = set(hashes)
        for part in parts if some else ():
            known = self._hashes.setdefault(part, set())
            self._count -= len(known)
            known |= some
            self._count += len(known)
        if self._count > self._most:
            self._prune(cached)

    def take(self, parts: Iterable[str]) -> set[bytes]:
        """The hashes of the blocks that have something of these parts, which leave no trace from here on."""
        taken = [self._hashes.pop(part, set()) for part in parts]
        self._count -= sum(map(len, taken))
        return set().union(*taken)

    def _prune(self, cached: Callable[[bytes], bool]) -> None:
        left = {part: set(filter(cached, hashes)) for part, hashes in self._hashes.items()}
        self._hashes = {part: hashes for part, hashes in left.items() if hashes or self._copied}
        self._count = sum(map(len, self._hashes.values()))
        self._most = max(self._most, 2 * self._count)
