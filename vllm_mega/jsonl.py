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
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                value = msgspec.json.decode(line, type=kind)
            except (msgspec.MsgspecError, ValueError) as error:
                raise ConfigError(f"{path}, line {number}: {error}") from error
            yield number, value
