"""Adapters beside the catalog: immutable PEFT folders, named by their digest.

Placing: claim the digest, copy into `staging`, sync, rename. Only then may a version name it. An adapter goes
when nothing names or claims it; that is looked up and done under one lock.
"""

from __future__ import annotations

import errno
import re
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from vllm_mega.bank import files
from vllm_mega.bank.adapter import AdapterFacts, adapter_digest
from vllm_mega.bank.catalog.catalog import ADAPTERS, STAGING, Catalog
from vllm_mega.bank.catalog.claims import claim, is_free, living
from vllm_mega.bank.catalog.records import Trained
from vllm_mega.bank.catalog.tables import versions
from vllm_mega.bank.inside import require_inside
from vllm_mega.bank.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from vllm_mega.errors import AdapterError, BankError

DIGEST = re.compile(r"[0-9a-f]{64}")
_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)


def adapter_folder(catalog: Catalog, adapter: str) -> Path:
    """Absolute path of the PEFT folder of this digest, whether it is there or not.

    Raises:
        BankError: no digest.
        BankFormatError: links lead out of the bank.
    """
    if not DIGEST.fullmatch(adapter):
        raise BankError(f"expected the digest of an adapter (64 hex digits), found {adapter!r}")
    folder = catalog.root / ADAPTERS / adapter[:2] / adapter
    require_inside(catalog.root, folder)
    return folder


def place(
    catalog: Catalog,
    source: Path,
    facts: AdapterFacts,
    *,
    recipe: str = "",
    training: dict[str, Any] | None = None,
) -> Trained:
    """Copy a checked adapter into the bank, durably; whoever gets the result names it within an hour.

    Args:
        catalog: of which bank.
        source: the adapter's folder; stays as it is.
        facts: what `bank.adapter.check_adapter` said of it.
        recipe: digest of the recipe that made it; empty: it was made elsewhere.
        training: how it was trained, for the reader.

    Raises:
        AdapterError: it is no longer what was checked.
        BankError: disk or database refuse.
    """
    target = adapter_folder(catalog, facts.digest)
    token = claim(catalog, facts.digest)
    with files.disk_errors(catalog.root):
        if not _intact(target, facts.digest):
            _copy(source, catalog.root / STAGING / token, facts.digest)
            _move_in(catalog.root / STAGING / token, target, facts.digest)
    return Trained(facts.digest, facts.bytes, facts.rank, token, recipe, training or {})


def sweep(catalog: Catalog) -> int:
    """Remove all adapters that nothing names or claims, and what interrupted work has left; how many.

    Any number of writers may go on meanwhile.

    Raises:
        BankError: disk or database refuse.
    """
    with files.disk_errors(catalog.root):
        staged = list((catalog.root / STAGING).iterdir())
    claimed = living(catalog)
    left = [path for path in staged if path.name not in claimed]
    with files.disk_errors(catalog.root):
        for path in left:
            files.remove(path)
    return len(left) + remove_free(catalog, on_disk(catalog) - named(catalog))


def remove_free(catalog: Catalog, adapters: Iterable[str]) -> int:
    """Remove those of these adapters that nothing names or claims; how many.

    Raises:
        BankError: disk or database refuse.
    """
    return sum(_remove_free(catalog, adapter) for adapter in sorted(adapters))


def on_disk(catalog: Catalog) -> set[str]:
    """The digests that have a folder.

    Raises:
        BankError: the folder cannot be read.
    """
    with files.disk_errors(catalog.root):
        folders = (catalog.root / ADAPTERS).glob("??/*")
        return {path.name for path in folders if DIGEST.fullmatch(path.name)}


def named(catalog: Catalog) -> set[str]:
    """The digests that some version names.

    Raises:
        BankError: the database refuses.
    """
    query = sa.select(versions.c.adapter).where(versions.c.adapter.is_not(None)).distinct()
    with catalog.database.read() as connection:
        return set(connection.execute(query).scalars())


def _intact(folder: Path, digest: str) -> bool:
    try:
        return adapter_digest(folder) == digest
    except AdapterError:
        return False


def _copy(source: Path, staged: Path, digest: str) -> None:
    files.make_folder(staged)
    for name in _FILES:
        files.copy_file(source / name, staged / name)
    files.sync_folder(staged)
    if (found := adapter_digest(staged)) != digest:
        raise AdapterError(
            source,
            expected=f"the adapter that was checked (SHA-256 {digest})",
            found=found,
            change="It was changed while it was placed; check it and place it again",
        )


def _move_in(staged: Path, target: Path, digest: str) -> None:
    """Rename; somebody else may have been faster with the same bytes, and a broken folder gives way."""
    target.parent.mkdir(exist_ok=True)
    try:
        files.move(staged, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not _intact(target, digest):
            files.move(target, staged.with_name(uuid.uuid4().hex))
            files.move(staged, target)
    files.sync_folder(target.parent)
    files.sync_folder(target.parent.parent)


def _remove_free(catalog: Catalog, adapter: str) -> bool:
    """Out of the way in the transaction that looked, deleted after it."""
    folder = adapter_folder(catalog, adapter)
    trash = catalog.root / STAGING / uuid.uuid4().hex

    def act(connection: sa.Connection) -> bool:
        if not is_free(connection, adapter, catalog.database.now(connection)) or not folder.is_dir():
            return False
        with files.disk_errors(catalog.root):
            files.move(folder, trash)
        return True

    if not catalog.database.write(act):
        return False
    with files.disk_errors(catalog.root):
        files.sync_folder(folder.parent)
        files.remove(trash)
        files.sync_folder(trash.parent)
    return True
