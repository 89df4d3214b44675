"""Export: a bank, or some of its memories, as files that other programs can read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from vllm_mega.bank import files
from vllm_mega.bank.adapter import adapter_digest
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.drafts import draft_of
from vllm_mega.bank.catalog.known import known
from vllm_mega.bank.catalog.reading import get_links, history, list_memories
from vllm_mega.bank.catalog.records import EVERYTHING, Filter, Memory, Version
from vllm_mega.bank.catalog.store import adapter_folder
from vllm_mega.bank.layout import moment_of
from vllm_mega.errors import AdapterError, BankError, MemoryNotFoundError
from vllm_mega.memories.exchange import MEMORIES, SETTINGS, Line, adapter_path

Progress = Callable[[Iterator[Memory]], Iterable[Memory]]


def export_bank(
    catalog: Catalog, folder: Path, chosen: Filter = EVERYTHING, *, progress: Progress = iter
) -> int:
    """Write memories with all their versions, keys, tags, links and adapters into `folder` (see `exchange`).

    `import_bank` makes the same bank of it. A memory that is forgotten meanwhile is left out.

    Args:
        catalog: of which bank.
        folder: a new or an empty one.
        chosen: which memories.
        progress: wraps the memories, for a progress bar.

    Returns:
        How many memories.

    Raises:
        BankError: the folder is not empty, or cannot be written; or the catalog cannot be read.
        AdapterError: an adapter of the bank is broken.
    """
    with files.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BankError(f"{folder} is not empty: choose another folder")
        (folder / SETTINGS).write_bytes(msgspec.json.encode(catalog.settings()))
        with (folder / f"{MEMORIES}.part").open("wb") as lines:
            count = sum(
                _write(catalog, folder, lines.write, memory) for memory in progress(_all(catalog, chosen))
            )
        (folder / f"{MEMORIES}.part").rename(folder / MEMORIES)
    return count


def _all(catalog: Catalog, chosen: Filter) -> Iterator[Memory]:
    cursor = None
    while True:
        page = list_memories(catalog, chosen, limit=1000, cursor=cursor)
        yield from page.memories
        cursor = page.cursor
        if cursor is None:
            return


def _write(catalog: Catalog, folder: Path, write: Callable[[bytes], object], memory: Memory) -> bool:
    """Whether the memory was still there."""
    try:
        lines = _lines(catalog, memory)
        for adapter in {line.adapter for line in lines if line.adapter}:
            _copy(catalog, folder, adapter)
    except MemoryNotFoundError:
        return False
    except (AdapterError, OSError):
        history(catalog, *memory.name)  # forgotten: its adapters went with it
        raise
    write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return True


def _lines(catalog: Catalog, memory: Memory) -> list[Line]:
    """The versions of a memory, the oldest first."""
    *earlier, newest = map(_line, reversed(history(catalog, *memory.name)))
    said = msgspec.structs.replace(
        newest.memory, links=get_links(catalog, *memory.name), expires_at=moment_of(memory.expires)
    )
    stored = known(catalog, [memory.name]).get(memory.name)
    wanted = stored is not None and stored.job is not None
    return [
        *earlier,
        msgspec.structs.replace(
            newest, memory=said, newest=True, wanted=wanted, pinned=memory.pinned, retired=memory.retired
        ),
    ]


def _line(version: Version) -> Line:
    memory = draft_of(version, train=False).memory
    return Line(
        memory, version.number, version.who, version.at, adapter=version.adapter, recipe=version.recipe,
        training=dict(version.training), key=version.key, source=version.source,
    )  # fmt: skip


def _copy(catalog: Catalog, folder: Path, adapter: str) -> None:
    target = adapter_path(folder, adapter)
    if target.exists():
        return
    shutil.copytree(adapter_folder(catalog, adapter), target)
    if (digest := adapter_digest(target)) != adapter:
        raise AdapterError(target, expected=f"SHA-256 {adapter}", found=digest, change="Run bank verify")
