"""What a signed receipt is: what was forgotten, in which bank, and the bank's word for it. Pure.

Ed25519: whoever has the public key can verify a receipt, and only who has the bank's own can make one.
"""

from __future__ import annotations

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from vllm_mega.bank.catalog.forgetting import Receipt
from vllm_mega.errors import BankError
from vllm_mega.jsonl import JsonError, decode

FORMAT = "vllm-mega forgetting receipt 1"
MOST = 256 << 20
"""Bytes of a receipt that is read."""


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the engines of a server have let go of, as far as the process that was asked has told them."""

    engines: int
    """That were told."""
    adapters: int
    """Copies in the host memory of all workers: overwritten and freed."""
    slots: int
    """Of all workers: overwritten."""
    blocks: int
    """Of the prefix cache: no request finds them any more; their memory is overwritten when it is used."""
    ended: int
    """Requests that used some of it, and were ended with an error."""
    running: int
    """Requests that still use some of it; what they use goes when they are done."""

    @classmethod
    def counts(cls) -> tuple[str, ...]:
        """The fields that every engine has its share of."""
        return cls.__struct_fields__[1:]

    def then(self, later: Server) -> Server:
        """Both together, where the engines were told again."""
        sums = {name: getattr(self, name) + getattr(later, name) for name in self.counts()}
        return Server(self.engines, **{**sums, "running": later.running})


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the bank says."""

    format: str
    bank: str
    """`Catalog.name`."""
    forgotten: Receipt
    server: Server | None = None
    """None: no server was asked, or its engines did not answer."""


class SignedReceipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A receipt as it is handed out."""

    statement: Statement
    key: str
    """The public key that it was signed for, 64 hex digits; worth nothing unless known as the bank's."""
    signature: str
    """Of the statement as compact JSON, 128 hex digits."""


def public_key(key: Ed25519PrivateKey) -> str:
    """The public part of a key, 64 hex digits."""
    return key.public_key().public_bytes_raw().hex()


def sign(receipt: Receipt, bank: str, key: Ed25519PrivateKey, server: Server | None = None) -> SignedReceipt:
    """The receipt of the bank of this name, signed with its key."""
    statement = Statement(FORMAT, bank, receipt, server)
    return SignedReceipt(statement, public_key(key), key.sign(_signed(statement)).hex())


def signature_problem(receipt: SignedReceipt, bank: str, public: str) -> str | None:
    """Why this bank did not sign the receipt as it is; None: it did.

    Args:
        receipt: as somebody has shown it.
        bank: the bank's own name.
        public: the bank's public key, 64 hex digits.
    """
    if receipt.statement.format != FORMAT:
        return f"expected the format {FORMAT!r}, found {receipt.statement.format!r}"
    if receipt.statement.bank != bank:
        return f"it is of the bank {receipt.statement.bank}, and this one is {bank}"
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(receipt.signature), _signed(receipt.statement))
    except (InvalidSignature, ValueError):
        return f"its signature is not that of the key {public}: it was changed, or never signed by this bank"
    return None


def read_receipt(data: bytes) -> SignedReceipt:
    """A receipt that somebody has shown; nothing is verified.

    Raises:
        BankError: it is no receipt; says why.
    """
    try:
        return decode(data, SignedReceipt)
    except JsonError as error:
        raise BankError(f"expected a receipt, as `bank forget --receipt` writes it: {error}") from error


def write_receipt(receipt: SignedReceipt) -> bytes:
    """The receipt as a file has it: JSON, that a person can read."""
    return msgspec.json.format(msgspec.json.encode(receipt), indent=2) + b"\n"


def _signed(statement: Statement) -> bytes:
    return FORMAT.encode() + b"\n" + msgspec.json.encode(statement)
