"""The files of the console, read once: what is served at which path. Pure, but for that reading."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PAGE = "/mega"
BELOW = "/mega/console/"
"""What the page consists of lies under this."""
_STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_METHODS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class File:
    """A file as it is served."""

    body: bytes
    kind: str
    """Its media type."""
    etag: str
    """In quotes; another file has another."""


def _read(path: Path) -> File:
    body = path.read_bytes()
    return File(body, _TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _place(path: Path) -> str:
    name = path.relative_to(_STATIC).as_posix()
    return PAGE if name == "index.html" else BELOW + name


FILES: Mapping[str, File] = {
    _place(path): _read(path) for path in sorted(_STATIC.rglob("*")) if path.suffix in _TYPES
}
"""By path."""


def is_console(method: str, path: str) -> bool:
    """Whether a request reads one of these files; another spelling of a path is none of theirs."""
    return method in _METHODS and path in FILES
