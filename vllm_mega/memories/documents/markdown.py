"""The blocks of a Markdown text, as CommonMark (with tables) has them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vllm_mega.memories.documents.blocks import Block, line_starts, lines_of, row_starts, trimmed

if TYPE_CHECKING:
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(
    r"---[ \t]*[\r\n]+(?=[A-Za-z_][\w-]*[ \t]*:)(?:[^\r\n]*[\r\n])*?(?:---|\.\.\.)[ \t]*(?:[\r\n]|$)"
)
_BODIES = {
    "paragraph_open", "bullet_list_open", "ordered_list_open", "blockquote_open", "table_open", "fence",
    "code_block", "html_block",
}  # fmt: skip
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def markdown_blocks(text: str) -> list[Block]:
    """The headings, paragraphs, lists, quotes, tables and code of `text`, in order.

    Not those of its front matter (YAML), comments, rules and definitions of links. The lines of a paragraph
    become one, as Markdown reads them; all else keeps its lines.
    """
    from markdown_it import MarkdownIt

    front = _FRONT_MATTER.match(text)
    offset = front.end() if front else 0
    tokens = MarkdownIt("commonmark").enable("table").parse(text[offset:])
    starts = [offset + start for start in line_starts(text[offset:])]
    return list(_blocks(text, tokens, starts))


def _blocks(text: str, tokens: Sequence[Token], starts: Sequence[int]) -> Iterator[Block]:
    for n, token in enumerate(tokens):
        if token.level or token.map is None:
            continue
        start, end = trimmed(text, starts[token.map[0]], starts[token.map[1]])
        if token.type == "heading_open":
            if title := _title(tokens[n + 1]):
                yield Block(title, start, end, int(token.tag[1:]))
        elif token.type in _BODIES and _COMMENT.sub("", text[start:end]).strip():
            yield _body(text, tokens, n, (start, end))


def _title(inline: Token) -> str:
    """A heading as it is read: without marks, on one line."""
    parts = inline.children or []
    read = (part.content if part.type in ("text", "code_inline") else " " for part in parts if _read(part))
    return " ".join("".join(read).split())


def _read(part: Token) -> bool:
    return part.type in ("text", "code_inline", "softbreak", "hardbreak")


def _body(text: str, tokens: Sequence[Token], n: int, span: tuple[int, int]) -> Block:
    token, raw = tokens[n], lines_of(text[span[0] : span[1]])
    if token.type == "paragraph_open":
        return Block(_joined(tokens[n + 1].content), *span)
    whole, begins = "\n".join(raw), row_starts(raw)
    if token.type in ("bullet_list_open", "ordered_list_open"):
        assert token.map is not None
        begins = tuple(begins[line - token.map[0]] for line in _items(tokens, n))
    if token.type != "table_open":
        return Block(whole, *span, rows=begins[1:])
    return Block(whole, *span, rows=begins[2:], lead="\n".join(raw[:2]))


def _items(tokens: Sequence[Token], n: int) -> Iterator[int]:
    """The lines on which the items of the list begin that `tokens[n]` opens."""
    for token in tokens[n + 1 :]:
        if token.level == 0:
            return
        if token.level == 1 and token.type == "list_item_open" and token.map is not None:
            yield token.map[0]


def _joined(paragraph: str) -> str:
    """Its lines as one, but where it breaks them on purpose (two spaces or a backslash before the end)."""
    return re.sub(r"([ \t]*\\?)\n[ \t]*", _line_end, paragraph)


def _line_end(match: re.Match[str]) -> str:
    end = match[1]
    return f"{end.strip()}\n" if end.endswith(("  ", "\\")) else " "
