"""What a stranger may have put where a file should be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 << 40)


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "terabytes": _large,
}
"""Each puts something at a path where nothing is."""

NO_JSON = {
    "deep arrays": b"[" * 100_000,
    "deep objects": b'{"format":' * 100_000,
    "not UTF-8": b'{"format": 2, "generation": "\xff"}',
    "half a character": b'{"format": 2, "generation": "\\ud83d"}',
    "half a name": b'{"\\ud83d": 1}',
    "cut off": b'{"format": 1',
    "empty": b"",
}
"""Contents that no reader of JSON takes."""
