"""The blocks of a PDF, from the lines of its pages and its bookmarks. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from vllm_mega.memories.documents.blocks import Block
from vllm_mega.memories.documents.plain import is_item
from vllm_mega.text import ends_sentence

_SHORT = 0.85
"""A line that ends a sentence and has less of the longest line's length ends a paragraph, too."""
_REPEATED = 3
"""On so many pages, and on half of them, a line at the edge is no part of the text."""
_EDGE = 2
"""Lines at the top, and at the bottom, that may be such."""


class Bookmark(NamedTuple):
    """An entry of a PDF's outline."""

    level: int
    """1 for the highest."""
    title: str
    page: int
    """From 0."""


class _Line(NamedTuple):
    text: str
    level: int = 0
    """Of a heading; 0: it is none."""
    ends: bool = False
    """Whether a paragraph ends with it."""


def page_blocks(pages: Sequence[str], bookmarks: Sequence[Bookmark]) -> tuple[str, list[Block]]:
    """The text of a document, and its blocks.

    A heading is what a bookmark names. Lines that come again at the edge of most pages (numbers aside) are
    left out. Where paragraphs end is guessed, from where lines do.

    Args:
        pages: the text of each, line by line.
        bookmarks: in order.
    """
    lines = _bare([[line.strip() for line in page.splitlines() if line.strip()] for page in pages])
    marked = [line for n, page in enumerate(lines) for line in _marked(page, n, bookmarks)]
    texts = [(" ".join(line.text for line in group), group[0].level) for group in _paragraphs(marked)]
    blocks, at = [], 0
    for text, level in texts:
        blocks.append(Block(text, at, at + len(text), level))
        at += len(text) + 2
    return "\n\n".join(text for text, _ in texts), blocks


def _bare(pages: Sequence[Sequence[str]]) -> list[list[str]]:
    """The pages without what is at the edge of most of them."""
    seen = Counter(form for page in pages for form in {_form(page[n]) for n in _edges(page)})
    least = max(_REPEATED, len(pages) / 2)
    return [
        [line for n, line in enumerate(page) if n not in _edges(page) or seen[_form(line)] < least]
        for page in pages
    ]


def _edges(page: Sequence[str]) -> set[int]:
    return {n for n in range(len(page)) if n < _EDGE or n >= len(page) - _EDGE}


def _form(line: str) -> str:
    """What lines that differ in numbers alone have in common."""
    return re.sub(r"\d+", "0", line)


def _marked(page: Sequence[str], number: int, bookmarks: Sequence[Bookmark]) -> Iterator[_Line]:
    """The lines of a page with its headings; those that are not found in it stand first."""
    mine = [mark for mark in bookmarks if mark.page == number]
    headings: dict[int, Bookmark] = {}
    for mark in mine:
        place = next((n for n, line in enumerate(page) if n not in headings and _is(line, mark)), None)
        if place is None:
            yield _Line(mark.title, mark.level)
        else:
            headings[place] = mark
    full = _SHORT * max(map(len, page), default=0)
    for n, line in enumerate(page):
        if n in headings:
            yield _Line(headings[n].title, headings[n].level)
        else:
            yield _Line(line, ends=ends_sentence(line) and len(line) < full)


def _is(line: str, mark: Bookmark) -> bool:
    """Whether a line is the heading that a bookmark names; one of both may have its number."""
    letters, title = _letters(line), _letters(mark.title)
    return bool(letters) and letters == title


def _letters(title: str) -> str:
    return re.sub(r"^[\dA-Z]?[\d.]*\s|\W", "", title).casefold()


def _paragraphs(lines: Sequence[_Line]) -> Iterator[list[_Line]]:
    """Lines that are one paragraph, or a heading alone."""
    numbers, number = [], 0
    for n, line in enumerate(lines):
        before = lines[n - 1] if n else line
        if n and (line.level or before.level or before.ends or is_item(line.text)):
            number += 1
        numbers.append(number)
    for _, group in groupby(zip(numbers, lines, strict=True), key=lambda pair: pair[0]):
        yield [line for _, line in group]
