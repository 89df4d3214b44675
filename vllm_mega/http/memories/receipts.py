"""Receipts over HTTP: what the bank has forgotten, and what the server's engines have let go of."""

from __future__ import annotations

import logging

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vllm_mega.bank.catalog.forgetting import Receipt
from vllm_mega.bank.catalog.gone import gone
from vllm_mega.http.memories.service import Service
from vllm_mega.memories.receipts.issuing import issue
from vllm_mega.memories.receipts.signing import Server, SignedReceipt

logger = logging.getLogger(__name__)


def signed(service: Service, forgotten: Receipt, key: Ed25519PrivateKey) -> SignedReceipt:
    """The receipt for what was forgotten just now. Takes as long as the catalog is large.

    Raises:
        BankError: see `issue`; the memories are forgotten all the same.
    """
    return issue(service.catalog, forgotten, key, _by_engines(service, forgotten))


def _by_engines(service: Service, forgotten: Receipt) -> Server | None:
    if service.let_go is None:
        return None
    try:
        return service.let_go(frozenset(gone(service.catalog, forgotten.parts)))
    except Exception as error:  # the memories are forgotten, and that is to be told
        logger.error("the engines have not said what they let go of: %s", error)
        return None
