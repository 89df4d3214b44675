"""All rows of a bank in memory, by namespace and id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter

from vllm_mega.bank.catalog.records import MemoryName, Row


class AllRows(Mapping[MemoryName, Row]):
    """Every memory by its name. Names are made when somebody walks: a million of them would take 0.1 GB.

    Not thread-safe.
    """

    def __init__(self) -> None:
        """None yet."""
        self._by_namespace: dict[str, dict[str, Row]] = {}

    def put(self, rows: Sequence[Row]) -> None:
        """Take rows, each in place of what its memory had."""
        for namespace in dict.fromkeys(map(_NAMESPACE, rows)):
            mine = [row for row in rows if row.namespace == namespace]
            self._by_namespace.setdefault(namespace, {}).update(zip(map(_ID, mine), mine, strict=True))

    def drop(self, names: Iterable[MemoryName]) -> None:
        """Forget memories, that are all here."""
        for namespace, memory_id in names:
            del self._by_namespace[namespace][memory_id]
            if not self._by_namespace[namespace]:
                del self._by_namespace[namespace]

    def __getitem__(self, name: MemoryName) -> Row:
        namespace, memory_id = name
        return self._by_namespace[namespace][memory_id]

    def __iter__(self) -> Iterator[MemoryName]:
        for namespace, rows in self._by_namespace.items():
            for memory_id in rows:
                yield MemoryName(namespace, memory_id)

    def __len__(self) -> int:
        return sum(map(len, self._by_namespace.values()))


_NAMESPACE, _ID = attrgetter("namespace"), attrgetter("id")
