"""Tables as plain text, for machines that have little installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def plain(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side: the first flush left, figures flush right."""
    lines = [list(headings), *map(list, rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(headings))]
    return "\n".join("  ".join(_cells(line, widths)).rstrip() for line in lines)


def _cells(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.rjust(width) if _figure(cell) else cell.ljust(width)
        for cell, width in zip(line, widths, strict=True)
    ]


def _figure(cell: str) -> bool:
    return cell[:1].isdigit() or cell == "-"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def say(text: str) -> None:
    """Print a line, now."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
