"""From what forgetting says to a receipt that can be handed out: signed, when nothing is in the files."""

from __future__ import annotations

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.forgetting import Receipt
from vllm_mega.memories.receipts.signing import Server, SignedReceipt, sign


def issue(
    catalog: Catalog, forgotten: Receipt, key: Ed25519PrivateKey, server: Server | None = None
) -> SignedReceipt:
    """Write SQLite's file anew, and sign what was forgotten.

    SQLite overwrites deleted rows, but not what it has left between others when it moved one from page to
    page: only a file that is written anew has nothing of it. That takes as long as the catalog is large.

    Args:
        catalog: of the bank.
        forgotten: what `forget` said, just now.
        key: the bank's (`receipts.key.bank_key`), taken before anything was forgotten.
        server: what a server's engines have let go of; None: none was asked.

    Raises:
        BankError: the disk refuses, or `bank.json` cannot be read; the memories are forgotten all the same.
    """
    erased = catalog.database.erase(rewrite=True)
    return sign(msgspec.structs.replace(forgotten, erased=erased), catalog.name, key, server)
