"""The smallest pieces of a block, and how good each border between two of them is. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

from vllm_mega.memories.documents.blocks import Block
from vllm_mega.text import sentences

_WORD = re.compile(r"\S{1,8}|\s+")
"""Words; very long ones, and scripts without spaces, by eight characters."""


class Border(IntEnum):
    """What begins at a border; the greater, the better it divides."""

    WORD = 0
    SENTENCE = 1
    ROW = 2
    BLOCK = 3


class Unit(NamedTuple):
    """Part of a block that is never divided."""

    block: int
    start: int
    """First character in the block's text."""
    end: int
    text: str
    border: Border
    """The one before it."""


def block_units(number: int, block: Block) -> list[Unit]:
    """The sentences of a block, or of each of its rows."""
    edges = [0, *block.rows, len(block.text)]
    units: list[Unit] = []
    for start, end in pairwise(edges):
        border = Border.ROW if units else Border.BLOCK
        for span in _spans(block.text, start, end, sentences(block.text[start:end])):
            units.append(Unit(number, *span, block.text[slice(*span)], border))
            border = Border.SENTENCE
    return units


def unit_words(unit: Unit) -> list[Unit]:
    """The words of a unit that is too long as it is."""
    words = [word for word in _WORD.findall(unit.text) if not word.isspace()]
    spans = _spans(unit.text, 0, len(unit.text), words)
    return [
        Unit(unit.block, unit.start + a, unit.start + b, unit.text[a:b], Border.WORD if n else unit.border)
        for n, (a, b) in enumerate(spans)
    ]


def _spans(text: str, start: int, end: int, parts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where `parts`, that follow each other with nothing but white space between, stand in `text`."""
    for part in parts:
        start = text.index(part, start, end)
        yield start, start + len(part)
        start += len(part)
