"""The file of keys: read again when it has changed, written so that it is the old one or the new one."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from filelock import FileLock

from vllm_mega.access.keys import KeyBook
from vllm_mega.errors import ConfigError

VARIABLE = "VLLM_MEGA_KEYS"
"""Environment variable: what a file of keys holds, where there is no file."""
_MOST = 16 << 20
Keys = Callable[[], KeyBook]
"""Gives the keys as they are now."""


def keys_from(path: Path | None, environ: Mapping[str, str]) -> Keys | None:
    """The keys of the file `path`, or of the environment; None: there are none, and nobody needs one.

    Raises:
        ConfigError: both are given; or the file cannot be read, is not ours, or others may write it.
    """
    given = environ.get(VARIABLE)
    if path is None:
        return _fixed(_decoded(given.encode(), VARIABLE)) if given else None
    if given:
        raise ConfigError(f"keys are given in {path} and in {VARIABLE}: give them in one place")
    file = KeyFile(path)
    file()
    return file


class KeyFile:
    """Keys that may change while a server runs: who revokes one need not start it again."""

    def __init__(self, path: Path) -> None:
        """Nothing is read yet."""
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._book = KeyBook()

    def __call__(self) -> KeyBook:
        """The keys as they are now; the file is read only if it has changed.

        Raises:
            ConfigError: as `keys_from`. Whoever asks has no keys then, and must let nobody in.
        """
        try:
            status = self._path.stat()
        except OSError as error:
            raise ConfigError(f"the keys in {self._path} cannot be read: {error.strerror}") from error
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._book, self._seen = read_keys(self._path), seen
        return self._book


def read_keys(path: Path) -> KeyBook:
    """The keys in the file `path`.

    Raises:
        ConfigError: it cannot be read, is not ours, or others than its owner may write it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            _check(path, os.fstat(fd))
            return _decoded(file.read(_MOST), str(path))
    except OSError as error:
        raise ConfigError(f"the keys in {path} cannot be read: {error.strerror}") from error


def change_keys(path: Path, act: Callable[[KeyBook], KeyBook]) -> None:
    """Change the keys in the file `path`, which is made if need be: mode 0600, one writer at a time.

    Raises:
        ConfigError: as `read_keys`, or what `act` refuses; then nothing has changed.
    """
    if not path.absolute().parent.is_dir():
        raise ConfigError(
            f"the keys in {path} cannot be written: there is no folder {path.absolute().parent}"
        )
    try:
        with FileLock(f"{path}.lock", mode=0o600):
            after = act(read_keys(path) if path.exists() else KeyBook())
            _write(path, msgspec.json.format(msgspec.json.encode(after)) + b"\n")
    except OSError as error:
        raise ConfigError(f"the keys in {path} cannot be written: {error.strerror}") from error


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is no regular file")
    if status.st_mode & 0o022:
        raise ConfigError(f"others may write {path}, and so give themselves keys: chmod 600 {path}")
    if status.st_size > _MOST:
        raise ConfigError(f"{path} has {status.st_size} bytes, and at most {_MOST} are read")


def _decoded(data: bytes, where: str) -> KeyBook:
    try:
        return msgspec.json.decode(data, type=KeyBook)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{where} holds no keys of ours: {error}") from error


def _fixed(book: KeyBook) -> Keys:
    return lambda: book


def _write(path: Path, data: bytes) -> None:
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    _sync(path.absolute().parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
