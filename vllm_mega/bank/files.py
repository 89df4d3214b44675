"""The file system operations that a bank is written with, each one durable.

Nothing else in the package changes a bank on disk, and everything here goes through `os`: tests
put a failing `os` in its place and try every step.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_mega.errors import BankError
from vllm_mega.regular_file import open_regular

_CHUNK = 1 << 20
_MOST = 1 << 40
"""Bytes of a file that is copied; what it may have is checked before."""


@contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """A disk that is full or read-only, as one of our errors."""
    try:
        yield
    except OSError as error:
        raise BankError(
            f"{root} could not be written: {error}. It is as it was before, or the change is whole"
        ) from error


def make_folder(path: Path) -> None:
    """Make the folder `path`; its parent is there, it is not."""
    os.mkdir(path)  # noqa: PTH102


def write_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a new file and sync it (its folder entry becomes durable with `sync_folder`)."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        _write_all(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)


def copy_file(source: Path, target: Path) -> None:
    """Copy the content of `source` (links are followed) into the new file `target`, and sync it."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open_regular(source, _MOST) as file:
            while chunk := file.read(_CHUNK):
                _write_all(fd, chunk)
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def sync_folder(path: Path) -> None:
    """Make the entries of the folder `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def move(source: Path, target: Path) -> None:
    """Rename within the bank; a file at `target` is replaced in one step."""
    os.replace(source, target)  # noqa: PTH105


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; links are not followed.

    What is gone already is no error.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        os.unlink(path)  # noqa: PTH108
        return
    for child in sorted(path.iterdir()):
        remove(child)
    os.rmdir(path)  # noqa: PTH106
