"""Files as documents: found, opened, decoded, converted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from vllm_mega.bank.layout import NewMemory
from vllm_mega.errors import DocumentError
from vllm_mega.memories.documents.blocks import Block, Document
from vllm_mega.memories.documents.converting import convert
from vllm_mega.memories.documents.markdown import markdown_blocks
from vllm_mega.memories.documents.pages import page_blocks
from vllm_mega.memories.documents.plain import plain_blocks
from vllm_mega.memories.lines import read_memories
from vllm_mega.regular_file import read_regular
from vllm_mega.text_file import decode_text

MOST_TEXT = 16 << 20
"""Bytes of a text: a hundred novels' worth of memories is a mistake."""
MOST_CONVERTED = 256 << 20
"""Bytes of a PDF, DOCX or HTML file: pictures are most of them."""
MOST_LINES = 1 << 30
"""Bytes of a file of memories."""

LINES = (".jsonl",)
"""Memories as `train` reads them."""


class Read(NamedTuple):
    """What a file says, and its blocks."""

    title: str
    """Of its own; empty: it has none."""
    text: str
    blocks: list[Block]


class ReadDocument(NamedTuple):
    """A document, and the text that its blocks are of."""

    document: Document
    text: str


class ReadLines(NamedTuple):
    """A file of memories."""

    source: str
    digest: str
    """SHA-256 of the file."""
    memories: list[NewMemory]


def read_files(paths: Sequence[Path], source: str | None = None) -> list[ReadDocument | ReadLines]:
    """What the files say, in order; a file that two paths lead to is read once.

    Args:
        paths: of documents (.md, .txt, .pdf, .docx, .html) and of memories (.jsonl).
        source: what the one document is called in the catalog; None: by its absolute path.

    Raises:
        DocumentError: a file cannot be read, is of no known type, or says nothing; the message names it.
        ConfigError: lines that are no memories.
    """
    if source is not None and len(paths) != 1:
        raise DocumentError(f"one name of a source is for one document, and {len(paths)} are given")
    if source is not None and not source.strip():
        raise DocumentError(f"{paths[0]}: the name of a source must not be empty")
    return [_read_file(path, source or os.path.abspath(path)) for path in _once(paths)]  # noqa: PTH100


def _read_file(path: Path, source: str) -> ReadDocument | ReadLines:
    if path.suffix.lower() in LINES:
        return ReadLines(source, _lines_digest(path), read_memories(path))
    return read_document(path, source)


def read_document(path: Path, source: str) -> ReadDocument:
    """What one document says.

    Raises:
        DocumentError: as `read_files`.
    """
    _reader(path)
    suffix = path.suffix.lower()
    return said_by(path, source, _content(path, MOST_TEXT if suffix in _TEXTS else MOST_CONVERTED))


def said_by(path: Path, source: str, content: bytes) -> ReadDocument:
    """What a document of this content says; nothing is read.

    Args:
        path: names the document in messages; its suffix is its type.
        source: what the document is called in the catalog.
        content: of the document.

    Raises:
        DocumentError: it is of no known type, cannot be read, or says nothing.
    """
    suffix = path.suffix.lower()
    said = _reader(path)(path, content)
    if not any(block.level == 0 for block in said.blocks):
        raise DocumentError(f"{path}: it says nothing: {_nothing(suffix, content, said)}")
    digest = hashlib.sha256(content).hexdigest()
    return ReadDocument(Document(source, digest, said.title or path.stem, tuple(said.blocks)), said.text)


def _reader(path: Path) -> Callable[[Path, bytes], Read]:
    """What reads files of this type."""
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        known = ", ".join([*_READERS, *LINES])
        raise DocumentError(f"{path}: expected one of {known}, found {suffix or 'no suffix'}")
    return _READERS[suffix]


def _once(paths: Sequence[Path]) -> list[Path]:
    """The paths without those that lead to a file again."""
    by_file: dict[tuple[int, int], Path] = {}
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise DocumentError(f"cannot read {path}: {error.strerror}") from error
        by_file.setdefault((status.st_dev, status.st_ino), path)
    return list(by_file.values())


def _content(path: Path, most: int) -> bytes:
    try:
        return read_regular(path, most)
    except IsADirectoryError as error:
        raise DocumentError(f"{path} is a folder: give its files ({path}/*.md)") from error
    except OSError as error:
        raise DocumentError(f"cannot read {path}: {error.strerror}") from error


def _lines_digest(path: Path) -> str:
    """SHA-256 of the file, which is then known to be one that can be read."""
    return hashlib.sha256(_content(path, MOST_LINES)).hexdigest()


def _decoded(path: Path, content: bytes) -> str:
    """A text, without its byte order mark."""
    if content.startswith((b"%PDF-", b"PK\x03\x04")):
        kind = "a PDF" if content.startswith(b"%PDF-") else "a ZIP archive, such as DOCX"
        raise DocumentError(f"{path} is {kind} by its content: give it the suffix of its type")
    try:
        text = decode_text(content).removeprefix("\ufeff")
    except ValueError as error:
        raise DocumentError(f"{path}, {error}") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DocumentError(f"{path}, line {line}: a NUL character: this is no text, or no whole one")
    return text


def _markdown(path: Path, content: bytes) -> Read:
    text = _decoded(path, content)
    return Read("", text, markdown_blocks(text))


def _plain(path: Path, content: bytes) -> Read:
    text = _decoded(path, content)
    return Read("", text, plain_blocks(text))


def _html(path: Path, content: bytes) -> Read:
    said = convert(path, content, "html")
    return Read(said.title, said.text, markdown_blocks(said.text))


def _docx(path: Path, content: bytes) -> Read:
    said = convert(path, content, "docx")
    return Read("", said.text, markdown_blocks(said.text))


def _pdf(path: Path, content: bytes) -> Read:
    said = convert(path, content, "pdf")
    return Read("", *page_blocks(said.pages, said.bookmarks))


def _nothing(suffix: str, content: bytes, said: Read) -> str:
    """Why a document has no text, as far as one can tell."""
    if not content.strip():
        return "the file is empty"
    if said.blocks:
        return "it has headings alone"
    if suffix == ".pdf":
        return "its pages have pictures and no text. Are they scanned? Recognise the text first (OCR)"
    return "it has no text"


_TEXTS: dict[str, Callable[[Path, bytes], Read]] = {
    ".md": _markdown,
    ".markdown": _markdown,
    ".txt": _plain,
    ".text": _plain,
}
_READERS: dict[str, Callable[[Path, bytes], Read]] = {
    **_TEXTS,
    ".html": _html,
    ".htm": _html,
    ".xhtml": _html,
    ".docx": _docx,
    ".pdf": _pdf,
}
