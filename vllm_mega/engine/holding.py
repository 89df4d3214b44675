"""Adapters that a request needs stay readable until it is done: whoever needs them holds their files open.

A writer deletes the folder of a memory that was forgotten or updated, and asks no reader. A file that is
open outlives its name, so the process that decides holds the files of a mixture, and the engine does from
the moment it hears of the request until the request is done. Other processes of the same user, the workers,
read them through /proc. Nothing is copied, and the last one who closes frees the disk.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

from vllm_mega.bank.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from vllm_mega.errors import AdapterError
from vllm_mega.mixture import Mixture

FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
_HELD = re.compile(r"held:(\d+):(\d+):(\d+):(.+)", re.DOTALL)
Signature = tuple[tuple[int, int, int, int], ...]
"""Device, inode, size and time of change of both files; empty if one cannot be found."""


class HeldPath(str):
    """Where an adapter is while its files are held open; closed with the last reference.

    Every mixture that is made of a held one has the same object, so what is needed is held.
    """

    __slots__ = ("__weakref__", "_descriptors")
    _descriptors: tuple[int, ...]
    _close = staticmethod(os.close)
    """Held here: when the interpreter ends, modules are emptied before the last paths go."""

    @classmethod
    def opened(cls, path: str) -> HeldPath:
        """Open the files of the adapter at `path`: a folder, or where another process holds them.

        Raises:
            OSError: one of them is gone or no file, or no more can be opened.
        """
        descriptors = []
        with ExitStack() as failed:
            for file in files_of(path):
                descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not wait
                failed.callback(os.close, descriptor)
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise FileNotFoundError(errno.ENOENT, "no regular file", str(file))
                descriptors.append(descriptor)
            failed.pop_all()
        held = cls(f"held:{os.getpid()}:{':'.join(map(str, descriptors))}:{folder_of(path)}")
        held._descriptors = tuple(descriptors)
        return held

    def __del__(self) -> None:
        for descriptor in getattr(self, "_descriptors", ()):
            self._close(descriptor)


class Holder:
    """Holds the adapters of mixtures, each once, as long as a mixture that has it lives. Thread-safe."""

    def __init__(self, most: int | None = None) -> None:
        """`most`: so many adapters; None: half of the files that this process may open."""
        self._most = _bound() if most is None else most
        self._lock = threading.Lock()
        self._held: WeakValueDictionary[str, HeldPath] = WeakValueDictionary()

    def hold(self, mixture: Mixture, *, at_any_rate: bool = False) -> Mixture:
        """The same mixture, its files held for as long as it lives.

        What cannot be held stays as it is: gone (whoever checks it will say so), or beyond the bound.

        Args:
            mixture: of adapters in folders, or held by another process.
            at_any_rate: whatever the bound; for those that are about to run.
        """
        with self._lock:
            return Mixture(
                (c.adapter, self._path(c.adapter, c.path, at_any_rate), c.weight) for c in mixture.components
            )

    def _path(self, adapter: str, path: str, at_any_rate: bool) -> str:
        known = self._held.get(adapter)
        if known is not None and signature(path) in (signature(known), ()):
            return known
        if len(self._held) >= self._most and not at_any_rate:
            return path
        try:
            self._held[adapter] = held = HeldPath.opened(path)
        except OSError:
            return path
        return held


def _bound() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (2**20 if limit == resource.RLIM_INFINITY else limit) // 4


class _Address(NamedTuple):
    folder: str
    links: tuple[Path, ...] = ()
    """The open files, as every process of this user sees them."""


def _parse(path: str) -> _Address:
    found = _HELD.fullmatch(path)
    if found is None:
        return _Address(path)
    process, *descriptors, folder = found.groups()
    return _Address(folder, tuple(Path(f"/proc/{process}/fd/{number}") for number in descriptors))


def folder_of(path: str) -> str:
    """The folder in which the adapter at `path` is, or was."""
    return _parse(path).folder


def files_of(path: str) -> tuple[Path, ...]:
    """Its two files; those that are held, where they can be seen (another machine cannot)."""
    folder, links = _parse(path)
    if links and all(link.exists() for link in links):
        return links
    return tuple(Path(folder, name) for name in FILES)


def signature(path: str) -> Signature:
    """What changes when a file of the adapter at `path` is written or replaced; not when it is deleted."""
    try:
        stats = [file.stat() for file in files_of(path)]
    except OSError:
        return ()
    return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in stats)


@contextmanager
def readable(path: str) -> Iterator[Path]:
    """The adapter at `path` as a folder, for those who read one by its name.

    Raises:
        AdapterError: the block's, speaking of the folder where the adapter is or was.
    """
    folder, files = Path(folder_of(path)), files_of(path)
    if files[0].parent == folder:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="vllm-mega-") as made:
        links = Path(made)
        for name, file in zip(FILES, files, strict=True):
            (links / name).symlink_to(file)
        try:
            yield links
        except AdapterError as error:
            if not error.path.is_relative_to(links):
                raise
            raise AdapterError(
                folder / error.path.relative_to(links),
                expected=error.expected,
                found=error.found,
                change=error.change,
            ) from error
