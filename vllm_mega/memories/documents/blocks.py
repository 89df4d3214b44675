"""What a document consists of: headings and blocks, such as paragraphs, lists and tables. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from vllm_mega.text import parted

_NEWLINE = re.compile(r"\r\n|\r|\n")
_SOLID = re.compile(r"\S")


class Block(NamedTuple):
    """A heading, or what stands between empty lines."""

    text: str
    """As it is remembered: that of the document, but for white space."""
    start: int
    """First character of it in the document's text."""
    end: int
    """One past its last character there."""
    level: int = 0
    """Of a heading, 1 for the highest; 0: it is none."""
    rows: tuple[int, ...] = ()
    """Where in `text` lines begin that stand for themselves: items, rows of tables, lines of code."""
    lead: str = ""
    """The header of a table, without which its rows say little."""


class Document(NamedTuple):
    """A file that has been read."""

    source: str
    """What it is called in the catalog (`Source.file`)."""
    digest: str
    """SHA-256 of the file."""
    name: str
    """Its title, unless it has one of its own."""
    blocks: tuple[Block, ...]
    """In order; they do not overlap."""


def line_starts(text: str) -> list[int]:
    """Where each line of `text` begins, whatever ends them, and where the text ends."""
    return [0, *(match.end() for match in _NEWLINE.finditer(text)), len(text)]


def lines_of(text: str) -> list[str]:
    """The lines of `text`, whatever ends them (but no other character does, as for `str.splitlines`)."""
    return parted(_NEWLINE, text)


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space at its ends."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


class Places:
    """Where in a document the characters of a block stand.

    Normalising touches white space alone, so the n-th solid character of one is the n-th of the other.
    """

    def __init__(self, document: str, block: Block) -> None:
        """Takes time linear in the block's length."""
        self._there = [match.start() for match in _SOLID.finditer(document, block.start, block.end)]
        self._here = [match.start() for match in _SOLID.finditer(block.text)]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Of the characters `start` to `end` of the block's text; first and last are solid."""
        first, last = bisect_left(self._here, start), bisect_left(self._here, end) - 1
        return self._there[first], self._there[last] + 1


def row_starts(rows: Sequence[str]) -> tuple[int, ...]:
    """Where each of `rows` begins when they are joined by line ends."""
    starts, at = [], 0
    for row in rows:
        starts.append(at)
        at += len(row) + 1
    return tuple(starts)
