"""Writing a bank: staged, synced, renamed, and committed by replacing the manifest.

The order of every change: new folders and the new keys file are written in `staging`, synced and
renamed to their place, where nobody looks yet; then the manifest is replaced (the commit); then
what the manifest no longer names is deleted. A crash before the commit leaves the old bank, one
after it the new bank; what either leaves behind is swept away by the next writer.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy

from vllm_mega.bank import files
from vllm_mega.bank.adapter import check_adapter
from vllm_mega.bank.inside import require_inside
from vllm_mega.bank.layout import (
    FORMAT_VERSION,
    MANIFEST,
    STAGING,
    BaseModelInfo,
    EmbedderInfo,
    Manifest,
    MemoryEntry,
)
from vllm_mega.bank.lock import BankLock
from vllm_mega.bank.orphans import dropped, orphans, refuse_strangers
from vllm_mega.bank.reader import BankReader, BankSnapshot, check_match
from vllm_mega.bank.staged import (
    StagedMemory,
    amended,
    checked_key,
    new_entries,
    refuse_twice,
    write_memory,
)
from vllm_mega.errors import BankError, BankNotFoundError

__all__ = ["BankWriter", "StagedMemory"]

Keys = npt.NDArray[np.float32]


class BankWriter:
    """The one writer of a bank; holds its lock until `close`. Not thread-safe."""

    def __init__(self, root: Path, lock: BankLock) -> None:
        """Use `open`, `create` or `open_or_create`."""
        self.root = root
        self._lock = lock
        self._reader = BankReader(root)
        self._staging = root / STAGING
        self._clean = False

    @classmethod
    def create(cls, root: Path | str, base: BaseModelInfo, embedder: EmbedderInfo) -> Self:
        """Make an empty bank at `root`: a new or empty folder.

        Raises:
            BankError: there is a bank, or something else.
            BankLockedError: another writer is at work.
        """
        root = Path(root).absolute()
        refuse_strangers(root)
        with files.disk_errors(root):
            root.mkdir(parents=True, exist_ok=True)
        lock = BankLock(root)
        try:
            if (root / MANIFEST).exists():
                raise BankError(f"{root} holds a bank already: open it, or choose another folder")
            writer = cls(root, lock)
            writer._clear_staging()
            with writer._changing():
                writer._place_generation(0, base, embedder, (), np.zeros((0, embedder.dim), np.float32))
                files.sync_folder(root.parent)
        except BaseException:
            lock.release()
            raise
        return writer

    @classmethod
    def open(cls, root: Path | str) -> Self:
        """Open the bank at `root` for writing, and sweep away what a crash has left.

        Raises:
            BankNotFoundError, BankFormatError: no bank, or not one of ours.
            BankLockedError: another writer is at work.
        """
        root = Path(root).absolute()
        if not (root / MANIFEST).exists():
            raise BankNotFoundError(f"{root} is not a bank: it has no {MANIFEST}")
        lock = BankLock(root)
        try:
            writer = cls(root, lock)
            writer._prepare()
            writer._clear_staging()
        except BaseException:
            lock.release()
            raise
        return writer

    @classmethod
    def open_or_create(cls, root: Path | str, base: BaseModelInfo, embedder: EmbedderInfo) -> Self:
        """Open the bank at `root` if there is one, else create it.

        Raises:
            BankMismatchError: it was made for another base model or embedder.
        """
        if not (Path(root) / MANIFEST).exists():
            return cls.create(root, base, embedder)
        writer = cls.open(root)
        try:
            check_match(writer.root, writer.snapshot.manifest, base.fingerprint, embedder)
        except BaseException:
            writer.close()
            raise
        return writer

    def close(self) -> None:
        """Remove what is still staged and release the lock; a second time does nothing."""
        try:
            if self._lock.held:
                self._clear_staging()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def snapshot(self) -> BankSnapshot:
        """The bank as it is now."""
        return self._reader.snapshot()

    def stage(self) -> Path:
        """A new empty folder to write an adapter into; gone when it was added, or on `close`."""
        self._prepare()
        with files.disk_errors(self.root):
            return self._new_folder()

    def add(
        self,
        items: Sequence[StagedMemory],
        shapes: Mapping[str, tuple[int, int]],
        max_rank: int | None = None,
    ) -> list[MemoryEntry]:
        """Add memories, or update those whose (namespace, id) the bank has: all of them, or none.

        One generation, however many. An old version's folder is deleted after the commit.

        Args:
            items: the memories, adapters and keys.
            shapes: (O, I) by linear module of the base model.
            max_rank: the largest rank allowed; None: any.

        Raises:
            AdapterError: an adapter must not be used.
            BankError: a key that does not fit, or one memory twice.
        """
        self._prepare()
        if not items:
            return []
        refuse_twice(items)
        keys = [checked_key(item, self.snapshot.manifest.embedder.dim) for item in items]
        facts = [check_adapter(item.adapter, shapes, max_rank=max_rank) for item in items]
        entries = new_entries(items, facts, self.snapshot.manifest)
        with self._changing():
            work = self._new_folder()
            for number, (item, entry) in enumerate(zip(items, entries, strict=True)):
                write_memory(work / str(number), item, entry)
            self._place_folders(work, entries)
            self._commit(entries, np.stack(keys), ())
            for item in items:
                if item.adapter.absolute().is_relative_to(self._staging):
                    files.remove(item.adapter)
            files.remove(work)
        return entries

    def forget(self, keys: Iterable[tuple[str, str]]) -> None:
        """Forget the memories (namespace, id): adapter, text and key are gone from disk on return.

        Raises:
            MemoryNotFoundError: there is no such memory; then none is forgotten.
        """
        self._prepare()
        gone = {self.snapshot.get(*key).key for key in keys}
        if gone:
            with self._changing():
                self._commit((), self.snapshot.keys[:0], gone)

    def link(self, links: Mapping[tuple[str, str], Sequence[str]]) -> None:
        """Set the links of memories: (namespace, id) to the ids that it links to, in place of those it had.

        One generation, however many; none when nothing changes. Adapters, texts and keys stay as they are.

        Raises:
            MemoryNotFoundError: there is no such memory; then none is changed.
            BankError: links that name one memory twice, itself, or what can be no id.
        """
        self.amend({key: {"links": new} for key, new in links.items()})

    def amend(self, changes: Mapping[tuple[str, str], Mapping[str, Sequence[str]]]) -> None:
        """Set links and tags of memories: (namespace, id) to the new ones by `links` and `tags`; others stay.

        One generation, however many; none when nothing changes. Adapters, texts and keys stay as they are.

        Raises:
            MemoryNotFoundError: there is no such memory; then none is changed.
            BankError: what cannot be (see `layout.check_links` and `config.check_tags`).
        """
        self._prepare()
        entries = [self.snapshot.get(*key) for key in changes]
        both = [(entry, amended(entry, **changes[entry.key])) for entry in entries]
        if changed := [(old, new) for old, new in both if new != old]:
            rows = [self.snapshot.row(old) for old, _ in changed]
            with self._changing():
                self._commit([new for _, new in changed], self.snapshot.keys[rows], ())

    def set_chat_template(self, template: str) -> None:
        """Set in which template memories are trained and asked; one generation, if it changes."""
        self._prepare()
        if self.snapshot.manifest.base.chat_template != template:
            with self._changing():
                self._commit((), self.snapshot.keys[:0], (), template)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Around every change; if it fails, the next one begins by sweeping up."""
        self._clean = False
        with files.disk_errors(self.root):
            yield
        self._clean = True

    def _prepare(self) -> None:
        """After a start or a failure: delete whatever the manifest does not name."""
        if not self._lock.held:
            raise BankError(f"this writer of {self.root} is closed: open another")
        if not self._clean:
            with files.disk_errors(self.root):
                for path in list(orphans(self.root, self.snapshot.manifest)):
                    self._delete(path)
            self._clean = True

    def _delete(self, path: Path) -> None:
        """Delete a part of the bank, durably; never through a link that leads out of it."""
        if path.parent != self.root:
            require_inside(self.root, path.parent)
        files.remove(path)
        if path.parent.is_dir():
            files.sync_folder(path.parent)

    def _new_folder(self) -> Path:
        folder = self._staging / uuid.uuid4().hex
        files.make_folder(folder)
        return folder

    def _clear_staging(self) -> None:
        with files.disk_errors(self.root):
            files.remove(self._staging)
            files.make_folder(self._staging)

    def _place_folders(self, work: Path, entries: Sequence[MemoryEntry]) -> None:
        """Rename the folders `work`/0, 1, ... to where the next manifest says that they are."""
        changed: dict[Path, None] = {}
        for number, entry in enumerate(entries):
            target = self.root / entry.folder
            require_inside(self.root, target)
            for parent in reversed(target.relative_to(self.root).parents[:-1]):
                folder = self.root / parent
                if not folder.is_dir():
                    files.make_folder(folder)
                    changed[folder.parent] = None
            files.move(work / str(number), target)
            changed[target.parent] = None
        for folder in changed:
            files.sync_folder(folder)

    def _commit(
        self,
        entries: Sequence[MemoryEntry],
        keys: Keys,
        gone: Iterable[tuple[str, str]],
        template: str | None = None,
    ) -> None:
        """Write the next generation: with `entries` and their `keys`, without `gone`; then clean up."""
        before = self.snapshot
        rows = dict(zip((e.key for e in before.manifest.memories), before.keys, strict=True))
        memories = {entry.key: entry for entry in before.manifest.memories}
        for key in gone:
            del memories[key], rows[key]
        for entry, row in zip(entries, keys, strict=True):
            memories[entry.key], rows[entry.key] = entry, row
        matrix = np.array(list(rows.values()), np.float32).reshape(len(rows), before.keys.shape[1])
        old = before.manifest
        base = old.base if template is None else msgspec.structs.replace(old.base, chat_template=template)
        self._place_generation(before.generation + 1, base, old.embedder, tuple(memories.values()), matrix)
        after = self.snapshot.manifest
        for path in dropped(self.root, before.manifest, after):
            self._delete(path)

    def _place_generation(
        self,
        generation: int,
        base: BaseModelInfo,
        embedder: EmbedderInfo,
        memories: tuple[MemoryEntry, ...],
        keys: Keys,
    ) -> None:
        """Keys first, then the manifest that names them."""
        data = safetensors.numpy.save({"keys": np.ascontiguousarray(keys)})
        manifest = Manifest(
            FORMAT_VERSION, generation, base, embedder, hashlib.sha256(data).hexdigest(), memories
        )
        self._place_file(manifest.keys_file, data)
        self._place_file(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))

    def _place_file(self, name: str, data: bytes) -> None:
        staged = self._staging / name
        files.remove(staged)
        files.write_file(staged, data)
        if name == MANIFEST:
            files.set_time(staged, self._next_time())
        files.move(staged, self.root / name)
        files.sync_folder(self.root)

    def _next_time(self) -> int:
        """A modification time that no earlier manifest has: clocks of file systems are coarse."""
        try:
            last = (self.root / MANIFEST).stat().st_mtime_ns
        except FileNotFoundError:
            last = 0
        return max(time.time_ns(), last + 1)
