"""Opening files that somebody else may have put there: regular ones only, of a bounded size.

A named pipe would keep its reader waiting for ever, a device or a file of terabytes would fill it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path, most: int) -> BinaryIO:
    """`path`, open for reading; never waits for a writer.

    Args:
        path: links are followed.
        most: bytes that it may have.

    Raises:
        OSError: it cannot be opened, is no regular file, or is larger; `strerror` says which.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "a pipe or a device, no regular file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes, and at most {most} are read", str(path))
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def read_regular(path: Path, most: int) -> bytes:
    """The content of `path`.

    Raises:
        OSError: as of `open_regular`; a file that grows meanwhile is too large, too.
    """
    with open_regular(path, most) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"more than {most} bytes", str(path))
    return content
