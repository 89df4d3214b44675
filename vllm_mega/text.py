"""Sentences of a text, in any script, and what of Markdown is prose. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

_SPACE = " \t\r\n"
_PLAIN = ".!?"
_PLAIN_CLOSING = "\"')]"
_WIDE = "。！？｡؟۔।॥"  # noqa: RUF001  (that they look alike is the point)
"""Ends of sentences in Chinese and Japanese, Arabic and Urdu, Hindi and its neighbours."""
_WIDE_CLOSING = _PLAIN_CLOSING + "」』”’）】»"  # noqa: RUF001
_CLOSE = f"[{re.escape(_WIDE_CLOSING)}]"
_SENTENCE_END = re.compile(
    # Not after an initial or a short title ("J.", "Dr."), nor before a small letter.
    r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))(?<!\b[A-Z]\.)(?<!\b[A-Z][a-z]\.)\s+(?=[^\sa-z])|\n\s*\n"
    # The others need no space behind them; but not within a row of them, nor where Japanese goes on behind
    # what was quoted.
    rf"|(?<=[{_WIDE}])(?!{_CLOSE}|[{_PLAIN}{_WIDE}])\s*"
    rf"|(?<=[{_WIDE}]{_CLOSE})(?!{_CLOSE}|[ぁ-ん{_PLAIN}{_WIDE}])\s*"
)

_HEADING = re.compile(r" {0,3}#{1,6}\s+(?P<title>\S.*?)[\s#]*")
_UNDERLINE = re.compile(r" {0,3}(?:={3,}|-{3,})\s*")
_RULE = re.compile(r"\s*([-*_])(?:\s*\1){2,}\s*")
_ROW = re.compile(r"\s*\|.*\|\s*")
_BELOW_HEADER = re.compile(r"\s*\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)+\|?\s*")
"""The line of a table that tells its header from its rows."""

PATTERNS = (
    *(_SPACE, _PLAIN, _PLAIN_CLOSING, _WIDE, _WIDE_CLOSING),
    *(pattern.pattern for pattern in (_SENTENCE_END, _HEADING, _UNDERLINE, _RULE, _ROW, _BELOW_HEADER)),
)
"""All that decides how a text is divided: a part of the recipe of training."""


def heading(text: str) -> str | None:
    """The first heading of a Markdown text; None: it has none."""
    lines = text.splitlines()
    for n, line in enumerate(lines):
        if match := _HEADING.fullmatch(line):
            return match["title"]
        if line.strip() and n + 1 < len(lines) and _UNDERLINE.fullmatch(lines[n + 1]) and _opens(lines, n):
            return line.strip()
    return None


def prose(text: str) -> str:
    """A Markdown text without its headings, tables and rules; any other text as it is."""
    lines = text.splitlines()
    gone = {n for n, line in enumerate(lines) if _HEADING.fullmatch(line) or _RULE.fullmatch(line)}
    for n, line in enumerate(lines):
        if n and lines[n - 1].strip() and _UNDERLINE.fullmatch(line) and _opens(lines, n - 1):
            gone |= {n - 1, n}
        if _ROW.fullmatch(line):
            gone.add(n)
        if n and "|" in lines[n - 1] and _BELOW_HEADER.fullmatch(line):
            gone |= {n - 1, n, *takewhile(lambda row: "|" in lines[row], range(n + 1, len(lines)))}
    return "\n".join("" if n in gone else line for n, line in enumerate(lines)) if gone else text


def _opens(lines: Sequence[str], at: int) -> bool:
    """Whether a paragraph begins with the line `at`."""
    return at == 0 or not lines[at - 1].strip()


def parted(pattern: re.Pattern[str], text: str) -> list[str]:
    """As `pattern.split(text)`, for a pattern without groups; between two matches other threads may run.

    One call that splits megabytes would hold all of them, an event loop among them, for tens of milliseconds.
    """
    edges = [0, *(edge for match in pattern.finditer(text) for edge in match.span()), len(text)]
    return [text[begin:end] for begin, end in zip(edges[::2], edges[1::2], strict=True)]


def sentences(text: str) -> list[str]:
    """The sentences of `text`, in order; all that it has is in them, but for white space between."""
    return [part.strip() for part in parted(_SENTENCE_END, text) if part.strip()]


def ends_sentence(piece: str) -> bool:
    """Whether a sentence ends with `piece`, a token of a text; quotes and brackets may close behind it."""
    plain, wide = (piece.rstrip(_SPACE + closing) for closing in (_PLAIN_CLOSING, _WIDE_CLOSING))
    return plain.endswith(tuple(_PLAIN)) or wide.endswith(tuple(_WIDE))
