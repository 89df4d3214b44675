"""Reading a bank: immutable snapshots, and a reader that notices new generations.

Readers take no lock. The manifest is the commit point: it is replaced in one step, and names the
digest of its keys file, so a snapshot is one generation or none.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from vllm_mega.bank.inside import require_inside
from vllm_mega.bank.layout import (
    FORMAT_VERSION,
    MANIFEST,
    MAX_DIM,
    MAX_KEYS_HEADER,
    MAX_MANIFEST,
    MAX_TEXT,
    MEMORY_FILE,
    MEMORY_FILES,
    Content,
    EmbedderInfo,
    Manifest,
    MemoryEntry,
    NewMemory,
)
from vllm_mega.errors import (
    BankError,
    BankFormatError,
    BankMismatchError,
    BankNotFoundError,
    MemoryNotFoundError,
)
from vllm_mega.jsonl import JsonError, decode
from vllm_mega.regular_file import open_regular, read_regular

_ATTEMPTS = 100
_Item = TypeVar("_Item", bound=np.generic)


class Signature(NamedTuple):
    """What tells one manifest file from the next without reading it."""

    inode: int
    mtime_ns: int
    size: int


@dataclass(frozen=True, eq=False)
class BankSnapshot:
    """A bank at one generation; never changes, whatever writers do."""

    root: Path
    """Absolute."""
    manifest: Manifest
    keys: npt.NDArray[np.float32]
    """[N, D], unit rows, row i belongs to `manifest.memories[i]`; read-only."""
    signature: Signature

    @property
    def generation(self) -> int:
        return self.manifest.generation

    def get(self, namespace: str, memory_id: str) -> MemoryEntry:
        """The memory `memory_id` of `namespace`.

        Raises:
            MemoryNotFoundError: there is none.
        """
        row = self._index.get((namespace, memory_id))
        if row is None:
            raise MemoryNotFoundError(f"namespace {namespace!r} has no memory {memory_id!r}")
        return self.manifest.memories[row]

    def row(self, entry: MemoryEntry) -> int:
        """The row of `entry` in `keys`."""
        return self._index[entry.key]

    def rows(self, namespace: str) -> npt.NDArray[np.intp]:
        """The rows of `keys` (ascending) that belong to `namespace`; none if nobody ever used it."""
        return self._rows.get(namespace, _NO_ROWS)

    def folder(self, entry: MemoryEntry) -> Path:
        """Absolute path of the folder of `entry`: a PEFT adapter, and `memory.json`.

        Raises:
            BankFormatError: a link leads out of the bank.
        """
        folder = self.root / entry.folder
        if entry.key not in self._checked:
            for name in MEMORY_FILES:
                require_inside(self.root, folder / name)
            self._checked.add(entry.key)
        return folder

    def text(self, entry: MemoryEntry) -> NewMemory:
        """The memory that `entry` lists, with what it was trained on.

        Raises:
            MemoryNotFoundError: forgotten or updated since this snapshot.
            BankFormatError: the file is not what the manifest says.
        """
        path = self.folder(entry) / MEMORY_FILE
        try:
            data = read_regular(path, MAX_TEXT)
        except FileNotFoundError as error:
            raise MemoryNotFoundError(
                f"{path} is gone: {entry.namespace}/{entry.id} was forgotten or updated after "
                f"generation {self.generation}"
            ) from error
        except OSError as error:
            raise BankError(f"{path} cannot be read: {error.strerror}") from error
        found = hashlib.sha256(data).hexdigest()
        if found != entry.text_digest:
            raise BankFormatError(f"{path}: expected SHA-256 {entry.text_digest}, found {found}")
        try:
            trained = decode(data, Content)
        except JsonError as error:
            raise BankFormatError(f"{path}: {error}") from error
        fields = msgspec.structs.asdict(trained)
        return NewMemory(**fields, id=entry.id, namespace=entry.namespace, tags=entry.tags, links=entry.links)

    @cached_property
    def _index(self) -> dict[tuple[str, str], int]:
        return {entry.key: row for row, entry in enumerate(self.manifest.memories)}

    @cached_property
    def _rows(self) -> dict[str, npt.NDArray[np.intp]]:
        rows: dict[str, list[int]] = defaultdict(list)
        for row, entry in enumerate(self.manifest.memories):
            rows[entry.namespace].append(row)
        return {namespace: _frozen(np.array(some, np.intp)) for namespace, some in rows.items()}

    @cached_property
    def _checked(self) -> set[tuple[str, str]]:
        return set()


def _frozen(array: npt.NDArray[_Item]) -> npt.NDArray[_Item]:
    array.setflags(write=False)
    return array


class BankReader:
    """Gives snapshots of the bank at `root`, a new one when a writer has committed. Thread-safe."""

    def __init__(
        self, root: Path | str, *, base_fingerprint: str | None = None, embedder: EmbedderInfo | None = None
    ) -> None:
        """Nothing is read yet. A bank of another base model or embedder will be refused, if given."""
        self.root = Path(root).absolute()
        self._base_fingerprint = base_fingerprint
        self._embedder = embedder
        self._lock = threading.Lock()
        self._last: BankSnapshot | None = None

    def snapshot(self) -> BankSnapshot:
        """The current generation; one `stat` when nothing has changed.

        Raises:
            BankNotFoundError: no bank there.
            BankFormatError: unreadable, or of a version that we do not know.
            BankMismatchError: made for another base model or embedder.
        """
        last = self._last
        if last is not None and last.signature == _signature(self.root):
            return last
        with self._lock:
            last = self._last
            if last is None or last.signature != _signature(self.root):
                last = load_snapshot(self.root)
                check_match(self.root, last.manifest, self._base_fingerprint, self._embedder)
                self._last = last
            return last


def load_snapshot(root: Path) -> BankSnapshot:
    """Read the bank at `root` (absolute) as it is now.

    A writer may commit and delete the old keys file between our two reads: then we start again.
    """
    for _ in range(_ATTEMPTS):
        manifest, signature = read_manifest(root)
        try:
            keys = read_keys(root, manifest)
        except BankFormatError:
            if _signature(root) == signature:
                raise
            continue
        return BankSnapshot(root, manifest, keys, signature)
    raise BankError(f"{root} changed {_ATTEMPTS} times while it was read")


class _Version(msgspec.Struct):
    format: int


def read_manifest(root: Path) -> tuple[Manifest, Signature]:
    """The manifest of the bank at `root`, and the signature of the file that was read."""
    path = root / MANIFEST
    require_inside(root, path)
    try:
        with open_regular(path, MAX_MANIFEST) as file:
            stat = os.fstat(file.fileno())
            data = file.read()
    except OSError as error:
        raise _unreadable(root, error) from error
    try:
        version = decode(data, _Version).format
        if version != FORMAT_VERSION:
            raise BankFormatError(
                f"{path}: format {version} is unknown; this vllm_mega knows format {FORMAT_VERSION}. "
                "Use the version that wrote it, or train its memories into a new folder"
            )
        manifest = decode(data, Manifest)
    except JsonError as error:
        raise BankFormatError(f"{path}: not a manifest: {error}") from error
    return manifest, Signature(stat.st_ino, stat.st_mtime_ns, stat.st_size)


def read_keys(root: Path, manifest: Manifest) -> npt.NDArray[np.float32]:
    """The keys [N, D] that belong to `manifest`."""
    path = root / manifest.keys_file
    require_inside(root, path)
    shape = (len(manifest.memories), manifest.embedder.dim)
    if not 1 <= manifest.embedder.dim <= MAX_DIM:
        raise BankFormatError(f"{root / MANIFEST}: expected keys of 1..{MAX_DIM} numbers, found {shape[1]}")
    try:
        data = read_regular(path, 4 * shape[0] * shape[1] + MAX_KEYS_HEADER)
    except FileNotFoundError as error:
        raise BankFormatError(f"{path} is missing, and {MANIFEST} names it") from error
    except OSError as error:
        raise BankError(f"{path} cannot be read: {error.strerror}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != manifest.keys:
        raise BankFormatError(f"{path}: expected SHA-256 {manifest.keys}, found {found}")
    try:
        keys = safetensors.numpy.load(data)["keys"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise BankFormatError(f"{path}: not a keys file: {error}") from error
    if keys.shape != shape or keys.dtype != np.float32:
        raise BankFormatError(f"{path}: expected float32 {shape}, found {keys.dtype} {keys.shape}")
    return _frozen(keys)


def _signature(root: Path) -> Signature:
    try:
        stat = (root / MANIFEST).stat()
    except OSError as error:
        raise _unreadable(root, error) from error
    return Signature(stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _unreadable(root: Path, error: OSError) -> BankError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return BankNotFoundError(f"{root} is not a bank: it has no {MANIFEST}")
    return BankError(f"{root / MANIFEST} cannot be read: {error.strerror}")


def check_match(
    root: Path, manifest: Manifest, base_fingerprint: str | None, embedder: EmbedderInfo | None
) -> None:
    """Refuse a bank that was made for another base model or embedder; None matches any.

    Raises:
        BankMismatchError: names both.
    """
    base, made = manifest.base, manifest.embedder
    if base_fingerprint is not None and base.fingerprint != base_fingerprint:
        raise BankMismatchError(
            f"{root} was made for the base model {base.name} (fingerprint {base.fingerprint}), "
            f"but this base model has the fingerprint {base_fingerprint}. "
            "Use that base model, or train a bank for this one"
        )
    if embedder is not None and (made.fingerprint, made.dim) != (embedder.fingerprint, embedder.dim):
        raise BankMismatchError(
            f"{root} was made with the embedder {made.name} (fingerprint {made.fingerprint}, D={made.dim}), "
            f"not with {embedder.name} (fingerprint {embedder.fingerprint}, D={embedder.dim}). "
            "Use that embedder, or make a bank with this one"
        )


_NO_ROWS = _frozen(np.array([], np.intp))
