"""Reading JSON lines, one value a line, each of a type."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from vllm_mega.errors import ConfigError

T = TypeVar("T")


def read_lines(path: Path, kind: type[T]) -> Iterator[tuple[int, T]]:
    """(number of the line, from 1; its value) for every line of `path`; empty lines are passed over.

    Raises:
        ConfigError: no such file, or a line that is no `kind`, with its number and the reason.
    """
    for number, value in decode_lines(path, kind):
        if isinstance(value, Reason):
            raise ConfigError(f"{path}, line {number}: {value}")
        yield number, value


class Reason(str):
    """Why a line is not what it should be."""

    __slots__ = ()


def decode_lines(path: Path, kind: type[T]) -> Iterator[tuple[int, T | Reason]]:
    """As `read_lines`, but a line that is no `kind` yields the reason.

    Raises:
        ConfigError: no such file.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, msgspec.json.decode(line, type=kind)
            except (msgspec.MsgspecError, ValueError) as error:
                yield number, Reason(error)
