"""How commands print: tables for people, JSON lines for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any


def print_json(objects: Iterable[Any]) -> None:
    """One JSON object a line."""
    import msgspec

    for value in objects:
        print(msgspec.json.encode(value).decode())


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they must be; the last one runs free."""
    lines = [header, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def printable(text: str) -> str:
    """`text` on one line, without what could steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def moment(seconds: float) -> str:
    """A time of the catalog, UTC, ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
