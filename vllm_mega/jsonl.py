"""Reading JSON that others wrote: one value a line, or an array of them; whatever is wrong has its line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from vllm_mega.errors import ConfigError
from vllm_mega.text_file import read_text

T = TypeVar("T")

_HALF = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F].."
)
"""An escape of half a character, without the other half."""
_POSITION = re.compile(r"\(byte (\d+)\)")
_WHITE = " \t\r\n"
_SPACE = re.compile(r"[ \t\r\n]+")


class Reason(str):
    """Why a line is not what it should be."""

    __slots__ = ()


class JsonError(ValueError):
    """Bytes that are no JSON, or not of the type that was asked for; the message is one line."""


def decode(written: bytes | str | msgspec.Raw, kind: type[T]) -> T:
    """`written` as JSON of type `kind`.

    Raises:
        JsonError: whatever is wrong with it: syntax, type, encoding, depth.
    """
    try:
        written = written.encode() if isinstance(written, str) else written
    except UnicodeEncodeError as error:
        raise JsonError("half a character (a lone surrogate)") from error
    try:
        return msgspec.json.decode(written, type=kind)
    except RecursionError:
        raise JsonError("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise JsonError("bytes that are not UTF-8") from error
    except msgspec.ValidationError as error:
        raise JsonError(str(error)) from error
    except msgspec.DecodeError as error:
        half = _HALF.search(written)
        if half:
            raise JsonError(
                f"half a character ({half[0].decode(errors='replace')}, a lone surrogate)"
            ) from error
        raise JsonError(str(error)) from error


def read_lines(path: Path, kind: type[T]) -> Iterator[tuple[int, T]]:
    """(number of the line, from 1; its value) for every value of `path`, see `decode_lines`.

    Raises:
        ConfigError: no such file, no text, or a line that is no `kind`, with its number and the reason.
    """
    for number, value in decode_lines(path, kind):
        if isinstance(value, Reason):
            raise ConfigError(f"{path}, line {number}: {value}")
        yield number, value


def decode_lines(path: Path, kind: type[T]) -> Iterator[tuple[int, T | Reason]]:
    """As `read_lines`, but what is no `kind` yields the reason.

    A field that is null counts as left out.

    Raises:
        ConfigError: no such file, or no text.
    """
    try:
        values = split_values(read_text(path))
    except JsonError as error:
        raise ConfigError(f"{path}, {error}") from error
    for number, value in values:
        try:
            yield number, _typed(value, kind)
        except JsonError as error:
            yield number, Reason(error)


def split_values(text: str) -> list[tuple[int, str]]:
    """(number of the line, from 1; JSON) of every value of `text`: an array's, or one a line, or one after
    another over several lines. Empty lines are passed over. What is no JSON is given as it stands, for its
    reader to refuse.

    Raises:
        JsonError: an array that is not whole; the message begins with "line N".
    """
    if text.lstrip(_WHITE).startswith("["):
        return _elements(text)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    values = [(number, line) for number, line in enumerate(lines, start=1) if line.strip(_WHITE)]
    if values and not _is_json(values[0][1]):
        return _spread(text) or values
    return values


def _elements(text: str) -> list[tuple[int, str]]:
    """The elements of the array that is the whole of `text`."""
    try:
        elements = [bytes(raw).decode() for raw in decode(text, list[msgspec.Raw])]
    except JsonError as error:
        line = _place(text.encode(errors="replace"), str(error))
        raise JsonError(f"line {line}: expected a JSON array, or one JSON value a line: {error}") from error
    values, position, number = [], 0, 1
    for element in elements:
        start = text.index(element, position)
        number += text.count("\n", position, start)
        values.append((number, element))
        number += element.count("\n")
        position = start + len(element)
    return values


def _place(written: bytes, reason: str) -> int:
    """The line of `written` that `reason` speaks of; the first if it does not tell."""
    place, half = _POSITION.search(reason), _HALF.search(written)
    if place:
        return written.count(b"\n", 0, int(place[1])) + 1
    if "truncated" in reason:
        return written.rstrip().count(b"\n") + 1
    return written.count(b"\n", 0, half.start()) + 1 if half else 1


def _spread(text: str) -> list[tuple[int, str]]:
    """The values that `text` consists of, wherever its lines break; none if there is something else in it."""
    values, position, number = [], 0, 1
    decoder = json.JSONDecoder()
    while (start := _skip(text, position)) < len(text):
        number += text.count("\n", position, start)
        try:
            _, position = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            return []
        values.append((number, text[start:position]))
        number += text.count("\n", start, position)
    return values


def _skip(text: str, position: int) -> int:
    """Where the white space that begins at `position` ends."""
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _is_json(text: str) -> bool:
    try:
        decode(text, msgspec.Raw)
    except JsonError:
        return False
    return True


def _typed(value: str, kind: type[T]) -> T:
    """`value` as a `kind`; of an object, the fields that are null are left out."""
    fields = decode(value, object)
    if not isinstance(fields, dict) or None not in fields.values():
        return decode(value, kind)
    try:
        return msgspec.convert({name: field for name, field in fields.items() if field is not None}, kind)
    except msgspec.ValidationError as error:
        raise JsonError(str(error)) from error
