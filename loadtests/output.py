"""Writing results: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from vllm_mega.bank import files
from vllm_mega.errors import MegaError


def write(output: Path, result: msgspec.Struct) -> None:
    """Write the result whole or not at all: a file of its own, synced, renamed.

    Raises:
        MegaError: the disk refuses; what stood there before still does.
    """
    staged = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        try:
            files.write_file(staged, msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
            files.move(staged, output)
        finally:
            files.remove(staged)
        files.sync_folder(output.parent)
    except OSError as error:
        raise MegaError(f"{output} could not be written: {error}") from error
