"""Compiled libraries in a folder that others may share: what is loaded is ours, and whole.

Beside a library lies the digest of its name and bytes. It is used if this user or root has written both and
nobody else can, and if they agree; else it is compiled again. What was checked is what is loaded: the open
file, whatever its name comes to mean meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_SUFFIX = ".sha256"


def opened(path: Path, build: Callable[[Path], None]) -> int:
    """The library at `path` as an open file; compiled now if it is not there, not whole, or a stranger's.

    Args:
        path: its place in the cache; the name says all that it depends on.
        build: writes it to another path.

    Raises:
        OSError: there is no place to compile it in.
    """
    found = _trusted(path)
    return _built(path, build) if found is None else found


def _built(path: Path, build: Callable[[Path], None]) -> int:
    with _workspace(path.parent) as work:
        made = Path(work, path.name)
        build(made)
        descriptor = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
        digest = made.with_name(made.name + _SUFFIX)
        digest.write_text(_digest(path.name, descriptor))
        try:
            for file in (made, digest):
                file.chmod(0o644)
                file.replace(path.with_name(file.name))  # several may build at once: all are equal
        except OSError as error:
            logger.warning("%s cannot be kept, and is compiled at every start: %s", path, error)
    return descriptor


def _workspace(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder of our own in `folder`, or where that cannot be, in the temporary folder."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=folder)
    return tempfile.TemporaryDirectory()


def _trusted(path: Path) -> int | None:
    """The library as an open file, if it may be loaded."""
    try:
        descriptor = _open_ours(path)
        try:
            digest = _open_ours(path.with_name(path.name + _SUFFIX))
            try:
                if os.read(digest, 1000).decode(errors="replace") == _digest(path.name, descriptor):
                    return descriptor
                raise PermissionError("it is not what was written")
            finally:
                os.close(digest)
        except OSError:
            os.close(descriptor)
            raise
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s is compiled again: %s", path, error)
        return None


def _open_ours(path: Path) -> int:
    """Open a file that nobody but this user and root can have written.

    Raises:
        OSError: it is not there, or not such a file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    found = os.fstat(descriptor)
    ours = found.st_uid in (os.geteuid(), 0) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if ours and stat.S_ISREG(found.st_mode):
        return descriptor
    os.close(descriptor)
    raise PermissionError(f"{path.name} is another user's, others may write it, or it is no regular file")


def _digest(name: str, descriptor: int) -> str:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        digest = hashlib.file_digest(file, lambda: hashlib.sha256(f"{name}\n".encode()))
    return digest.hexdigest()
