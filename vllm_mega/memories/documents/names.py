"""Ids of memories that come from documents. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from itertools import count
from pathlib import PurePath

_NO_NAME = re.compile(r"[^A-Za-z0-9]+")
_LONGEST = 40
"""Characters of an id that come from the name of the file."""
_DIGITS = 12


def prefix_of(source: str) -> str:
    """What the ids of all parts of a source begin with: "handbook-"; small letters, digits and "-"."""
    name = _NO_NAME.sub("-", PurePath(source).stem)[:_LONGEST].strip("-") or "document"
    return f"{name.lower()}-"


def part_id(source: str, text: str, is_taken: Callable[[str], bool]) -> str:
    """An id that source and text decide: "handbook-5f2a90c31b7e".

    Args:
        source: `Source.file`.
        text: of the memory.
        is_taken: whether an id is somebody else's; then it ends with -2, -3, ..., as for a text that a
            document has twice.
    """
    digest = hashlib.sha256(f"{source}\0{text}".encode()).hexdigest()[:_DIGITS]
    first = f"{prefix_of(source)}{digest}"
    numbered = (f"{first}-{n}" for n in count(2))
    return (
        first if not is_taken(first) else next(candidate for candidate in numbered if not is_taken(candidate))
    )
