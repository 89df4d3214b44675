"""The lock of a bank: one writer at a time. It vanishes with the process that holds it."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from vllm_mega.bank.layout import LOCK
from vllm_mega.errors import BankError, BankLockedError


class BankLock:
    """`flock` on the file `lock`; a writer leaves its name there for whoever finds it locked."""

    def __init__(self, root: Path, *, shared: bool = False) -> None:
        """Take the lock of the bank at `root`, at once or not at all.

        `shared` keeps writers out and changes nothing on disk; any number may share.

        Raises:
            BankLockedError: somebody else holds it; the message says who.
            BankError: it cannot be opened or locked at all.
        """
        path = root / LOCK
        self._owner = not shared
        flags = os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT
        try:
            self._fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            raise BankError(f"{path} cannot be opened: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise BankError(f"{path} is a pipe or a device, no regular file: remove it")
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 200, 0).decode(errors="replace").strip()
            os.close(self._fd)
            if not isinstance(error, BlockingIOError):
                raise BankError(f"{path} cannot be locked: {error.strerror}") from error
            raise BankLockedError(
                f"{path} is held by {holder or 'a process that checks the bank'}; wait until it has finished"
            ) from error
        if self._owner:
            self._sign()

    def _sign(self) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"process {os.getpid()} on {socket.gethostname()} since {now}\n".encode(), 0)

    @property
    def held(self) -> bool:
        return self._fd >= 0

    def release(self) -> None:
        """Let go; a second time does nothing."""
        if not self.held:
            return
        if self._owner:
            os.ftruncate(self._fd, 0)
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
