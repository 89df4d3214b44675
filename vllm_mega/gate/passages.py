"""Long texts in passages of a few sentences, such as an embedder can read whole. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from vllm_mega.text import sentences

Count = Callable[[Sequence[str]], list[int]]
"""Tokens of each text."""
_LINE = re.compile(r"\s*\n\s*")


def passages(text: str, size: int, count: Count) -> list[str]:
    """`text` divided between sentences and lines, or within them where one is too long.

    Args:
        text: any.
        size: most tokens of a passage. One character may have more.
        count: of the tokenizer.

    Returns:
        In order, with all that is not white space; empty when there is nothing else.
    """
    parts = [part for line in _LINE.split(text) for part in sentences(line)]
    pieces = [
        piece
        for part, tokens in zip(parts, count(parts), strict=True)
        for piece in _fitting(part, tokens, size, count)
    ]
    return list(_packed(pieces, size))


def ends(items: Sequence[str], most: int) -> list[str]:
    """`items`, or so many of them, half from each end."""
    return list(items) if len(items) <= most else [*items[: most - most // 2], *items[-(most // 2) :]]


def _fitting(part: str, tokens: int, size: int, count: Count) -> Iterator[tuple[str, int]]:
    """`part` with its tokens, halved until it fits: between words if there are any."""
    if tokens <= size or len(part) < 2:
        yield part, tokens
        return
    middle = len(part) // 2
    space = part.rfind(" ", 1, middle + 1)
    at = space if space > 0 else middle
    halves = [half for half in (part[:at].strip(), part[at:].strip()) if half]
    for half, number in zip(halves, count(halves), strict=True):
        yield from _fitting(half, number, size, count)


def _packed(pieces: Sequence[tuple[str, int]], size: int) -> Iterator[str]:
    """Neighbours together, as many as fit."""
    taken: list[str] = []
    total = 0
    for piece, tokens in pieces:
        if taken and total + tokens > size:
            yield " ".join(taken)
            taken, total = [], 0
        taken.append(piece)
        total += tokens
    if taken:
        yield " ".join(taken)
