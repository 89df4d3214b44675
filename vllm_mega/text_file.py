"""Reading text files, whichever program has written them: UTF-8 or UTF-16, with or without a mark."""

from __future__ import annotations

import codecs
from pathlib import Path

from vllm_mega.errors import ConfigError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """The text in `path`.

    Raises:
        ConfigError: it cannot be read, or is no text; names the line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    try:
        return decode_text(content)
    except ValueError as error:
        raise ConfigError(f"{path}, {error}") from error


def decode_text(content: bytes) -> str:
    """`content` as text: by its mark, else UTF-16 where every other byte is 0, else UTF-8.

    Raises:
        ValueError: it is none of these; the message begins with "line N".
    """
    encoding = _encoding(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, errors="replace").count("\n") + 1
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(
            f"line {line}: bytes that are not {name} ({content[error.start : error.start + 4].hex(' ')}); "
            "save the file as UTF-8"
        ) from error


def _encoding(content: bytes) -> str:
    for mark, name in _MARKS:
        if content.startswith(mark):
            return name
    if content[1:2] == b"\0" != content[:1]:
        return "utf-16-le"
    return "utf-16-be" if content[:1] == b"\0" != content[1:2] else "utf-8"
