"""The blocks of a plain text: what stands between empty lines. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vllm_mega.memories.documents.blocks import Block, lines_of, row_starts, trimmed
from vllm_mega.text import ends_sentence

_EMPTY_LINE = re.compile(r"(?>\r\n|\r|\n)[^\S\r\n]*(?=[\r\n])|\f")
_ITEM = re.compile(r"\s*(?:[-*+•‣◦▪·–]|\(?[0-9]{1,3}[.)]|[A-Za-z][.)])\s")  # noqa: RUF001
_LEAST_WIDTH = 40
"""Characters of the longest line of prose that somebody has wrapped."""
_FULL = 0.6
"""A wrapped line has this part of the longest, at least."""


def plain_blocks(text: str) -> list[Block]:
    """The paragraphs of `text`, in order; there are no headings.

    The lines of wrapped prose become one; others, such as a fact a line, keep their lines.
    """
    edges = [0, *(edge for match in _EMPTY_LINE.finditer(text) for edge in match.span()), len(text)]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [plain_block(text, start, end) for start, end in pairs if text[start:end].strip()]


def plain_block(text: str, start: int, end: int) -> Block:
    """The paragraph that stands at `start` to `end`, without white space around."""
    start, end = trimmed(text, start, end)
    lines = [line.rstrip() for line in lines_of(text[start:end])]
    if wrapped(lines):
        return Block(" ".join(line.strip() for line in lines), start, end)
    return Block("\n".join(lines), start, end, rows=row_starts(lines)[1:])


def wrapped(lines: Sequence[str]) -> bool:
    """Whether these lines are prose that somebody has broken into lines of about the same length."""
    longest = max(map(len, lines))
    if longest < _LEAST_WIDTH or any(map(is_item, lines[1:])):
        return False
    full = [line for line in lines[:-1] if len(line) >= _FULL * longest and not ends_sentence(line)]
    return 2 * len(full) >= len(lines) - 1


def is_item(line: str) -> bool:
    """Whether an item of a list begins with this line."""
    return _ITEM.match(line) is not None
