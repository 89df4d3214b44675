"""A stand-in for `os` in `vllm_mega.bank.files` that fails at a chosen step, or loses its power."""

# ruff: noqa: PTH102, PTH105, PTH106, PTH108

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


class PowerCut(BaseException):
    """No code of ours may catch it and go on."""


class QuickDisk:
    """`os`, but nothing waits for the disk."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, fd: int) -> None:
        pass


class FailingDisk(QuickDisk):
    """Counts every change; at step `at` it raises `error`.

    With `dies` nothing works from then on, as in a process that was killed (clean-up code changes
    nothing either), and `lose_unsynced` then undoes whatever nobody had synced.
    """

    def __init__(
        self, spare: Path, at: int = 0, *, dies: bool = True, error: Callable[[], BaseException] = PowerCut
    ) -> None:
        self.steps = 0
        self._at, self._dies, self._error = at, dies, error
        self._dead = False
        self._spare = spare
        self._spare.mkdir(exist_ok=True)
        self._names: dict[int, str] = {}
        self._unwritten: dict[int, int] = {}
        self._undo: list[tuple[int, int, Callable[[], Any]]] = []
        self.log: list[tuple[str, str]] = []

    def _step(self, name: str, path: object) -> None:
        if not self._dead:
            self.steps += 1
            self.log.append((name, str(path)))
        if self._dead or self.steps == self._at:
            self._dead = self._dies
            raise self._error()

    def _remember(self, path: object, undo: Callable[[int, str], Any]) -> None:
        """`undo(fd of the folder, name in it)` takes back a change that is lost without a sync."""
        parent = Path(str(path)).parent
        fd = os.open(parent, os.O_RDONLY)
        self._undo.append((os.fstat(fd).st_ino, fd, lambda: undo(fd, Path(str(path)).name)))

    def _save(self, path: object) -> Path:
        copy = self._spare / uuid.uuid4().hex
        os.link(str(path), copy)
        return copy

    def mkdir(self, path: Path) -> None:
        self._step("mkdir", path)
        os.mkdir(path)
        self._remember(path, lambda fd, name: shutil.rmtree(name, dir_fd=fd))

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            self._step("create", path)
        fd = os.open(path, flags, mode)
        if flags & os.O_CREAT:
            self._remember(path, lambda folder, name: os.unlink(name, dir_fd=folder))
        self._names[fd] = str(path)
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        try:
            self._step("write", self._names[fd])
        except BaseException:
            os.write(fd, data[: len(data) // 2])  # torn
            raise
        if (inode := os.fstat(fd).st_ino) not in self._unwritten:
            self._unwritten[inode] = os.dup(fd)
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        self._step("fsync", self._names[fd])
        inode = os.fstat(fd).st_ino
        if inode in self._unwritten:
            os.close(self._unwritten.pop(inode))
        for _, kept, _ in (change for change in self._undo if change[0] == inode):
            os.close(kept)
        self._undo = [change for change in self._undo if change[0] != inode]

    def replace(self, source: Path, target: Path) -> None:
        self._step("replace", target)
        old = self._save(target) if target.is_file() else None
        os.replace(source, target)

        def undo(fd: int, name: str) -> None:
            os.rename(name, source, src_dir_fd=fd)
            if old:
                os.link(old, name, dst_dir_fd=fd)

        self._remember(target, undo)

    def utime(self, path: Path, ns: tuple[int, int]) -> None:
        self._step("utime", path)
        os.utime(path, ns=ns)

    def unlink(self, path: Path) -> None:
        self._step("unlink", path)
        old = self._save(path)
        os.unlink(path)
        self._remember(path, lambda fd, name: os.link(old, path))

    def rmdir(self, path: Path) -> None:
        self._step("rmdir", path)
        os.rmdir(path)
        self._remember(path, lambda fd, name: os.mkdir(path))

    def lose_unsynced(self) -> None:
        """What is left on disk when the power goes, at the worst."""
        for fd in self._unwritten.values():
            os.ftruncate(fd, 0)
        for _, _, undo in reversed(self._undo):
            with suppress(FileNotFoundError):  # its folder is gone, too
                undo()

    def forget(self) -> None:
        """Let go of the files; nothing more can be lost."""
        for fd in (*self._unwritten.values(), *(kept for _, kept, _ in self._undo)):
            os.close(fd)
        self._unwritten, self._undo = {}, []
