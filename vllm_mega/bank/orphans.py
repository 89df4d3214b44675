"""What lies in a bank although its manifest does not name it (any more). Reads, deletes nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from vllm_mega.bank.layout import LOCK, MANIFEST, MEMORIES, STAGING, Manifest, keys_file
from vllm_mega.errors import BankError

_KEYS = re.compile(r"keys-\d+\.safetensors")


def is_keys_file(name: str) -> bool:
    """Whether `name` is that of a keys file, of whichever generation."""
    return _KEYS.fullmatch(name) is not None


def orphans(root: Path, manifest: Manifest) -> Iterator[Path]:
    """Keys files of other generations, and whatever below `memories` is no memory of `manifest`.

    `staging` is not looked at: all of it is a writer's.
    """
    for path in root.iterdir():
        if is_keys_file(path.name) and path.name != manifest.keys_file:
            yield path
    versions: dict[str, dict[str, str]] = {}
    for entry in manifest.memories:
        versions.setdefault(entry.namespace, {})[entry.id] = str(entry.version)
    for namespace in _children(root / MEMORIES):
        if namespace.name not in versions:
            yield Path(namespace)
            continue
        ids = versions[namespace.name]
        for memory in _children(namespace):
            if memory.name not in ids:
                yield Path(memory)
                continue
            yield from (Path(v) for v in _children(memory) if v.name != ids[memory.name])


def _children(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """What is in `folder`; nothing if it is none, or a link (never to be followed)."""
    if os.path.islink(folder) or not os.path.isdir(folder):  # noqa: PTH112, PTH114
        return []
    with os.scandir(folder) as entries:
        return list(entries)


def dropped(root: Path, before: Manifest, after: Manifest) -> list[Path]:
    """What `before` names and `after` does not, as few and as large subtrees as possible."""
    versions = {entry.key: entry.version for entry in after.memories}
    namespaces = {entry.namespace for entry in after.memories}
    paths = {root / before.keys_file: None}
    for entry in before.memories:
        folder = root / entry.folder
        if entry.namespace not in namespaces:
            paths[folder.parent.parent] = None
        elif entry.key not in versions:
            paths[folder.parent] = None
        elif versions[entry.key] != entry.version:
            paths[folder] = None
    return list(paths)


def refuse_strangers(root: Path) -> None:
    """A new bank goes into a new folder, an empty one, or one where making a bank was cut off.

    Raises:
        BankError: `root` is a file, a bank, or a folder with something else in it.
    """
    if not root.exists():
        return
    if not root.is_dir():
        raise BankError(f"{root} is a file: a bank needs a folder")
    names = {path.name for path in root.iterdir()}
    if MANIFEST in names:
        raise BankError(f"{root} holds a bank already: open it, or choose another folder")
    if strangers := names - {LOCK, STAGING, keys_file(0)}:
        raise BankError(f"{root} is not empty (it has {min(strangers)}): choose another folder")
