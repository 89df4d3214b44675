"""Import: what `export_bank` has written becomes a bank, or a part of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from vllm_mega.bank.adapter import check_adapter
from vllm_mega.bank.catalog import changes
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.known import known
from vllm_mega.bank.catalog.records import BankSettings, MemoryName, Trained
from vllm_mega.bank.catalog.store import DIGEST, place
from vllm_mega.bank.identity import text_digest
from vllm_mega.bank.layout import MAX_TEXT
from vllm_mega.bank.lora_tensors import Shapes
from vllm_mega.bank.opening import open_or_create
from vllm_mega.errors import BankFormatError
from vllm_mega.jsonl import JsonError, decode
from vllm_mega.memories.drafting import draft
from vllm_mega.memories.exchange import MEMORIES, SETTINGS, Line, adapter_path
from vllm_mega.regular_file import open_regular, read_regular

_MOST = 1 << 40
"""Bytes of all lines; each is read by itself."""
Progress = Callable[[Iterator[MemoryName]], Iterable[MemoryName]]


def read_export_settings(folder: Path) -> BankSettings:
    """For which base model and embedder the export in `folder` is.

    Raises:
        BankFormatError: no export there.
    """
    path = folder / SETTINGS
    try:
        return decode(read_regular(path, MAX_TEXT), BankSettings)
    except (OSError, JsonError) as error:
        raise BankFormatError(f"{folder} is no exported bank: {path} cannot be read: {error}") from error


def import_bank(
    folder: Path,
    bank: Path,
    shapes: Shapes,
    who: str,
    *,
    catalog: str | None = None,
    max_rank: int | None = None,
    progress: Progress = iter,
) -> int:
    """Bring an export into the bank at `bank`, which is made if there is none.

    Memories that the bank does not have come with all their versions, in order; of those that it has, the
    newest version becomes the newest. What has expired since it was exported is left out. Begun again after
    it was cut off, it ends with the same texts.

    Args:
        folder: what `export_bank` has written.
        bank: the bank's folder.
        shapes: (O, I) by linear module of the base model.
        who: imports, for the history.
        catalog: URL of the bank's catalog, if it is not in its folder.
        max_rank: the largest rank allowed; None: any.
        progress: wraps the memories, for a progress bar.

    Returns:
        How many memories.

    Raises:
        BankFormatError: no export, or one that was changed.
        BankMismatchError: the bank is of another base model or embedder.
        AdapterError: an adapter that must not be used; memories before it are in the bank.
        BankError: disk or database refuse.
    """
    lines = _read(folder)
    with open_or_create(bank, read_export_settings(folder), catalog) as opened:
        bringing = _Bringing(opened, folder, shapes, max_rank, who)
        return sum(1 for _ in progress(bringing.all(lines)))


def _read(folder: Path) -> Iterator[Line]:
    path = folder / MEMORIES
    try:
        with open_regular(path, _MOST) as file:
            for number, encoded in enumerate(iter(lambda: file.readline(MAX_TEXT), b""), 1):
                yield _line(path, number, encoded)
    except OSError as error:
        raise BankFormatError(f"{folder} is no exported bank, or not a whole one: {error}") from error


def _line(path: Path, number: int, encoded: bytes) -> Line:
    try:
        line = decode(encoded, Line)
    except JsonError as error:
        raise BankFormatError(f"{path}, line {number}: {error}") from error
    if not line.memory.id:
        raise BankFormatError(f"{path}, line {number}: the memory has no id: write it in")
    if line.adapter is not None and not DIGEST.fullmatch(line.adapter):
        raise BankFormatError(f"{path}, line {number}: expected a digest, found {line.adapter!r:.80}")
    return line


class _Bringing(msgspec.Struct, frozen=True):
    """All that it takes to bring exported memories into a bank."""

    catalog: Catalog
    folder: Path
    shapes: Shapes
    max_rank: int | None
    who: str

    def all(self, lines: Iterator[Line]) -> Iterator[MemoryName]:
        """Bring memory after memory; yields their names."""
        for name, some in groupby(lines, key=lambda line: line.name):
            versions = list(some)
            expires = versions[-1].memory.expires
            if expires is not None and expires <= time.time():
                continue
            there = name in known(self.catalog, [name])
            self._bring(versions[-1:] if there else versions)
            yield name

    def _bring(self, versions: Sequence[Line]) -> None:
        """Versions of a memory, the oldest first."""
        before: Line | None = None
        for line in versions:
            trained = None if before and _same(before, line) else self._place(line)
            made = draft(line.memory, line.key, line.source, trained, train=line.wanted)
            changes.put(self.catalog, [made], self.who)
            before = line
        newest = versions[-1]
        if newest.pinned or newest.retired:
            kept = changes.Edit(pinned=newest.pinned or None, retired=newest.retired or None)
            changes.edit(self.catalog, newest.name, kept, self.who)

    def _place(self, line: Line) -> Trained | None:
        if line.adapter is None:
            return None
        path = adapter_path(self.folder, line.adapter)
        facts = check_adapter(path, self.shapes, max_rank=self.max_rank, expected_digest=line.adapter)
        return place(self.catalog, path, facts, recipe=line.recipe, training=line.training)


def _same(before: Line, line: Line) -> bool:
    """Whether the bank gives `line` the adapter of the version before it."""
    texts = text_digest(before.memory), text_digest(line.memory)
    return before.adapter == line.adapter and texts[0] == texts[1]
