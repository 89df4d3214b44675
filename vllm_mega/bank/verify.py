"""Verifying a bank: everything on disk against what the manifest says. Reads, changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import msgspec
import numpy as np

from vllm_mega.bank.adapter import check_adapter
from vllm_mega.bank.catalog.drafts import key_problem
from vllm_mega.bank.layout import LOCK, MANIFEST, MEMORIES, MEMORY_FILES, STAGING, Manifest, MemoryEntry
from vllm_mega.bank.lock import BankLock
from vllm_mega.bank.orphans import is_keys_file, orphans
from vllm_mega.bank.reader import BankSnapshot, read_keys, read_manifest
from vllm_mega.errors import AdapterError, BankError, BankFormatError

Progress = Callable[[Sequence[MemoryEntry]], Iterable[MemoryEntry]]


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a bank."""

    kind: str
    """manifest, keys, key, text, adapter, orphan, staging or stranger."""
    path: str
    """Relative to the bank."""
    problem: str
    namespace: str | None = None
    id: str | None = None


def verify(
    root: Path | str,
    shapes: Mapping[str, tuple[int, int]],
    *,
    max_rank: int | None = None,
    progress: Progress = iter,
) -> list[Problem]:
    """Check every digest, text, adapter and key, and look for files that should not be there.

    Args:
        root: the bank; writers are kept out meanwhile, readers are not disturbed.
        shapes: (O, I) by linear module of the base model.
        max_rank: the largest rank that will be served; None: any.
        progress: wraps the memories while they are checked, for a progress bar.

    Raises:
        BankNotFoundError: no bank there.
        BankLockedError: a writer is at work.
    """
    root = Path(root).absolute()
    try:
        manifest, signature = read_manifest(root)
        with BankLock(root, shared=True) if (root / LOCK).exists() else nullcontext():
            manifest, signature = read_manifest(root)
            snapshot = BankSnapshot(root, manifest, np.zeros((0, 0), np.float32), signature)
            problems = list(_keys(root, manifest))
            for entry in progress(manifest.memories):
                problems += _memory(snapshot, entry, shapes, max_rank)
            return [*problems, *_leftovers(root, manifest)]
    except BankFormatError as error:
        return [Problem("manifest", MANIFEST, str(error))]


def _keys(root: Path, manifest: Manifest) -> Iterator[Problem]:
    try:
        keys = read_keys(root, manifest)
    except BankError as error:
        yield Problem("keys", manifest.keys_file, str(error))
        return
    for entry, key in zip(manifest.memories, keys, strict=True):
        problem = key_problem(key, manifest.embedder.dim)
        if problem:
            yield Problem("key", manifest.keys_file, problem, entry.namespace, entry.id)


def _memory(
    snapshot: BankSnapshot, entry: MemoryEntry, shapes: Mapping[str, tuple[int, int]], max_rank: int | None
) -> Iterator[Problem]:
    def found(kind: str, problem: object) -> Problem:
        return Problem(kind, entry.folder, str(problem), entry.namespace, entry.id)

    try:
        snapshot.text(entry)
    except BankError as error:
        yield found("text", error)
    try:
        folder = snapshot.folder(entry)
        facts = check_adapter(folder, shapes, max_rank=max_rank, expected_digest=entry.adapter)
        if (facts.bytes, facts.rank) != (entry.adapter_bytes, entry.rank):
            yield found("manifest", f"expected bytes and rank {facts.bytes}, {facts.rank}, "
                                    f"found {entry.adapter_bytes}, {entry.rank}")  # fmt: skip
    except (BankError, AdapterError) as error:
        yield found("adapter", error)
        return
    for path in sorted(folder.iterdir()):
        if path.name not in MEMORY_FILES:
            yield found("stranger", f"{path.name} is no file of a memory: remove it")


def _leftovers(root: Path, manifest: Manifest) -> Iterator[Problem]:
    swept = "left by a writer that was cut off; the next writer removes it"
    for path in sorted(orphans(root, manifest)):
        yield Problem("orphan", str(path.relative_to(root)), swept)
    staging = root / STAGING
    if staging.is_dir():
        for path in sorted(staging.iterdir()):
            yield Problem("staging", str(path.relative_to(root)), swept)
    for path in sorted(root.iterdir()):
        if path.name not in {MANIFEST, LOCK, STAGING, MEMORIES} and not is_keys_file(path.name):
            yield Problem("stranger", path.name, "no part of a bank: move it elsewhere")
