"""What responses have used, in tokens: the field `usage`, over all passes of a request. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def usage_of(replies: Sequence[Any]) -> dict[str, Any]:
    """What all of these responses have used together, as `usage` has it."""
    used: dict[str, Any] = {}
    for reply in replies:
        used = total(used, reply.usage.model_dump())
    return used


def total(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The sum of two usages, field by field; what is not known (null) counts nothing."""
    both = dict(first)
    for name, value in second.items():
        if isinstance(value, Mapping):
            both[name] = total(both.get(name) or {}, value)
        elif value is not None:
            both[name] = (both.get(name) or 0) + value
    return both
