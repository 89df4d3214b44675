"""A program of its own, see `converting`: what a file of somebody else's says.

`python _converting.py KIND` reads the file from standard input, and writes JSON: {"title", "text"} of HTML
and DOCX (Markdown), {"pages", "bookmarks"} of PDF, or {"error"}. Imports nothing of the package. A file that
would fill the memory, or keep its reader busy for ever, ends this process alone.
"""

from __future__ import annotations

import io
import json
import resource
import sys
from collections.abc import Callable
from typing import Any

SECONDS = 300
BYTES = 4 << 30
_PASSWORD = 4
"""PDFium's number for it."""
_NO_TEXT = ("nav", "script", "style", "template", "noscript", "form", "svg", "iframe", "head", "title")
_STYLE: dict[str, Any] = {
    "heading_style": "ATX", "bullets": "-", "strip": ["a", "img"], "escape_asterisks": False,
    "escape_underscores": False,
}  # fmt: skip
_HEADINGS = "\n".join(
    [
        "p[style-name='Title'] => h1:fresh",
        *(f"p[style-name='heading {n}'] => h{min(n + 1, 6)}:fresh" for n in range(1, 7)),
        *(f"p[style-name='Heading {n}'] => h{min(n + 1, 6)}:fresh" for n in range(1, 7)),
        "p[style-name='Subtitle'] => p:fresh",
    ]
)


class RefusedError(Exception):
    """The file cannot be read; the message says why."""


def html(content: bytes) -> dict[str, Any]:
    """The text of a page, without what only leads about the site."""
    from bs4.dammit import EncodingDetector

    declared = EncodingDetector.find_declared_encoding(content, is_html=True)
    encoding = "utf-8-sig" if declared in (None, "utf-8") else declared
    try:
        return _markdown(content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else encoding))
    except (UnicodeDecodeError, LookupError) as error:
        raise RefusedError(
            f"bytes that are not {declared or 'UTF-8'}: save it as UTF-8, or declare its encoding"
        ) from error


def docx(content: bytes) -> dict[str, Any]:
    """The text of a document of Word, without its pictures."""
    import zipfile

    import mammoth

    if content.startswith(b"\xd0\xcf\x11\xe0"):
        raise RefusedError("it has a password, or is of Word before 2007: save it as .docx without one")
    try:
        made = mammoth.convert_to_html(
            io.BytesIO(content),
            style_map=_HEADINGS,
            convert_image=lambda _image: [],
            external_file_access=False,
        )
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise RefusedError(f"it is no whole document of Word ({error})") from error
    return _markdown(made.value)


def pdf(content: bytes) -> dict[str, Any]:
    """The lines of each page, and the outline."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(content)
        pages = [page.get_textpage().get_text_range() for page in document]
        return {"pages": list(map(_line_ends, pages)), "bookmarks": _bookmarks(document)}
    except pypdfium2.PdfiumError as error:
        if error.err_code == _PASSWORD:
            raise RefusedError("it is encrypted: take its password off, and give that file") from error
        raise RefusedError(f"it is no whole PDF ({error})") from error


def _markdown(text: str) -> dict[str, Any]:
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    soup = BeautifulSoup(text, "html.parser")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for tag in soup(_NO_TEXT):
        tag.decompose()
    mains = soup("main")
    converter = MarkdownConverter(**_STYLE)
    return {"title": title, "text": converter.convert_soup(mains[0] if len(mains) == 1 else soup)}


def _line_ends(page: str) -> str:
    """Words that were hyphenated at the end of a line are whole again (PDFium puts U+FFFE there)."""
    return page.replace("\ufffe", "").replace("\u0002", "").replace("\0", "")


def _bookmarks(document: Any) -> list[tuple[int, str, int]]:
    """(level, title, page) of all that lead to a page."""
    bookmarks = []
    for mark in document.get_toc():
        page, title = mark.get_dest(), " ".join(mark.get_title().split())
        if title and page is not None and page.get_index() is not None:
            bookmarks.append((mark.level + 1, title, page.get_index()))
    return bookmarks


KINDS: dict[str, Callable[[bytes], dict[str, Any]]] = {"html": html, "docx": docx, "pdf": pdf}


def main(kind: str) -> None:
    """Convert within the limits; what goes beyond them ends the process."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    try:
        said = KINDS[kind](sys.stdin.buffer.read())
    except RefusedError as error:
        said = {"error": str(error)}
    except (MemoryError, RecursionError) as error:
        said = {"error": f"it takes too much to read ({type(error).__name__})"}
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1])
