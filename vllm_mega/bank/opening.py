"""Opening the bank that a folder has, or making one."""

from __future__ import annotations

from pathlib import Path

from vllm_mega.bank.catalog.catalog import BANK_FILE, Catalog, create_catalog, open_catalog
from vllm_mega.bank.catalog.records import BankSettings
from vllm_mega.bank.layout import OLD_MANIFEST
from vllm_mega.bank.library import check_match
from vllm_mega.errors import BankNotFoundError


def open_if_there(root: Path | str, url: str | None = None) -> Catalog | None:
    """The bank at `root`; None: there is none, or making it was cut off.

    Raises:
        BankFormatError, BankMismatchError: as `open_catalog`.
    """
    if not any((Path(root) / name).exists() for name in (BANK_FILE, OLD_MANIFEST)):
        return None
    try:
        return open_catalog(root, url)
    except BankNotFoundError:
        return None


def open_or_create(root: Path | str, settings: BankSettings, url: str | None = None) -> Catalog:
    """Open the bank at `root` if there is one, else create it.

    Raises:
        BankMismatchError: it was made for another base model or embedder.
        BankError: as `open_catalog` and `create_catalog`.
    """
    catalog = open_if_there(root, url)
    if catalog is None:
        return create_catalog(root, settings, url)
    try:
        check_match(catalog.root, catalog.settings(), settings.base.fingerprint, settings.embedder)
    except BaseException:
        catalog.close()
        raise
    return catalog
