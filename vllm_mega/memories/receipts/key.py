"""The key that a bank signs its receipts with: `receipt.key` in its folder, for its owner alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vllm_mega.bank import files
from vllm_mega.bank.catalog.catalog import RECEIPT_KEY, Catalog
from vllm_mega.bank.catalog.database import lock_name
from vllm_mega.errors import BankError, BankFormatError
from vllm_mega.regular_file import open_regular

_MOST = 10_000


def bank_key(catalog: Catalog) -> Ed25519PrivateKey:
    """The bank's key, which is made if it has none.

    Raises:
        BankError: it cannot be read or made, or others than its owner can read it.
    """
    path = catalog.root / RECEIPT_KEY

    def act(connection: sa.Connection) -> Ed25519PrivateKey:
        lock_name(connection, RECEIPT_KEY)  # two that make one at once would sign with two
        if not path.exists():
            _make(catalog.root, path)
        return read_key(catalog)

    return catalog.database.write(act)


def read_key(catalog: Catalog) -> Ed25519PrivateKey:
    """The bank's key.

    Raises:
        BankError: it has none, or it cannot be read, or others than its owner can.
        BankFormatError: the file holds none.
    """
    path = catalog.root / RECEIPT_KEY
    try:
        with open_regular(path, _MOST) as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read()
    except OSError as error:
        raise BankError(f"the key for receipts, {path}, cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise BankError(
            f"others can use {path} (mode {stat.S_IMODE(mode):o}) and sign for this bank: chmod 600 {path}"
        )
    return _decoded(path, data)


def _decoded(path: Path, data: bytes) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise BankFormatError(
            f"{path} holds no key: bring the right file back, or remove it; then the next receipt makes "
            "another key, and no earlier receipt can be verified"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BankFormatError(f"{path}: expected a key of Ed25519, found a {type(key).__name__}")
    return key


def _make(root: Path, path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with files.disk_errors(root):
        files.write_file(path, pem, mode=0o600)
        files.sync_folder(root)
