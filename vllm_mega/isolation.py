"""Work that is shared by many, whose troubles are each one's own. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Trouble = TypeVar("Trouble", bound=Exception)


def isolated(
    compute: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item], trouble: type[Trouble]
) -> list[Result | Trouble]:
    """What `compute` gives for each of `items`, or the exception that an item causes, in order.

    All are computed together. Where that raises, the halves are computed apart, until whoever causes it is
    alone: one bad item among n costs about 2 log2(n) more calls, and nobody else's result.

    Args:
        compute: gives one result for each item that it is called with, in order.
        items: any number.
        trouble: exceptions that an item may cause; any other is raised, for it is everybody's.
    """
    try:
        results = list(compute(items))
        assert len(results) == len(items), f"{len(items)} items gave {len(results)} results"
    except trouble as error:
        if len(items) < 2:
            return [error] * len(items)
        half = len(items) // 2
        return [*isolated(compute, items[:half], trouble), *isolated(compute, items[half:], trouble)]
    return [*results]
