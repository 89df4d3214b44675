"""From blocks to the texts and titles of memories. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from vllm_mega.memories.documents.blocks import Block, Document, Places
from vllm_mega.memories.documents.division import Size, divide
from vllm_mega.memories.documents.units import Unit, block_units, unit_words

Count = Callable[[Sequence[str]], Sequence[int]]
"""How many tokens of the base model each text has."""

BETWEEN = " > "
_LONGEST_TITLE = 120
"""Characters: the title stands in prompts that the memory is trained on."""


class Section(NamedTuple):
    """What stands between two headings."""

    title: str
    """The way to it: "Handbook > Doors > Codes"."""
    blocks: list[Block]


class Part(NamedTuple):
    """What of a document becomes a memory."""

    title: str
    text: str
    start: int
    """First character of it in the document's text."""
    end: int
    """One past its last character there."""
    tokens: int


def document_parts(document: Document, text: str, count: Count, size: Size) -> list[Part]:
    """The parts of a document, in order; headings are in their titles.

    Args:
        document: with its blocks.
        text: that the blocks are of.
        count: tells tokens.
        size: of the parts.
    """
    return [part for section in sections(document) for part in _parts(section, text, count, size)]


def sections(document: Document) -> Iterator[Section]:
    """The sections of a document that have more than a heading."""
    way = [] if _has_title(document.blocks) else [(0, document.name)]
    for heading, blocks in groupby(document.blocks, key=lambda block: block.level > 0):
        if heading:
            for block in blocks:
                way = [*(step for step in way if step[0] < block.level), (block.level, block.text)]
        else:
            yield Section(title_of([text for _, text in way]), list(blocks))


def title_of(way: Sequence[str]) -> str:
    """The title of what stands under these headings; of a long way, its end."""
    title = BETWEEN.join(way)
    if len(title) <= _LONGEST_TITLE:
        return title
    if len(way) > 1:
        return title_of(way[1:])
    return title[: _LONGEST_TITLE - 3].rsplit(None, 1)[0] + "..."


def _has_title(blocks: Sequence[Block]) -> bool:
    """Whether the document begins with a heading that stands above all others."""
    levels = [block.level for block in blocks if block.level]
    return bool(blocks) and blocks[0].level > 0 and all(level > blocks[0].level for level in levels[1:])


def _parts(section: Section, text: str, count: Count, size: Size) -> Iterator[Part]:
    units = [unit for n, block in enumerate(section.blocks) for unit in block_units(n, block)]
    tokens = list(count([unit.text for unit in units]))
    units = [
        small
        for unit, length in zip(units, tokens, strict=True)
        for small in (unit_words(unit) if length > size.most else [unit])
    ]
    tokens = list(count([unit.text for unit in units]))
    places = [Places(text, block) for block in section.blocks]
    for piece in divide(units, tokens, size):
        yield _part(section, places, units[piece.start : piece.stop], sum(tokens[piece.start : piece.stop]))


def _part(section: Section, places: Sequence[Places], units: Sequence[Unit], tokens: int) -> Part:
    spans = [_span(list(mine)) for _, mine in groupby(units, key=lambda unit: unit.block)]
    said = "\n\n".join(section.blocks[unit.block].text[unit.start : end] for unit, end in spans)
    (first, _), (last, end) = spans[0], spans[-1]
    lead = section.blocks[first.block].lead
    if lead and first.start >= len(lead):
        said = f"{lead}\n{said}"
    begins, _ = places[first.block].span(first.start, first.end)
    _, ends = places[last.block].span(last.start, end)
    return Part(section.title, said, begins, ends, tokens)


def _span(units: Sequence[Unit]) -> tuple[Unit, int]:
    """The first of some units of a block, and where the last ends."""
    return units[0], units[-1].end
