"""Writing results: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from vllm_mega.bank import files
from vllm_mega.errors import MegaError


def write_json(output: Path, value: Any) -> None:
    """`write_whole` of a value, as JSON to read."""
    write_whole(output, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def write_whole(output: Path, content: bytes) -> None:
    """Write a file whole or not at all: staged beside it, synced, renamed.

    Raises:
        MegaError: the disk refuses; what stood there before still does.
    """
    staged = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        try:
            files.write_file(staged, content)
            files.move(staged, output)
        finally:
            files.remove(staged)
        files.sync_folder(output.parent)
    except OSError as error:
        raise MegaError(f"{output} could not be written: {error}") from error
