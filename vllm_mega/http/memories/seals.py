"""Numbers that count for the whole bank, as tokens that tell nobody how far they count. Pure.

Events and rows are numbered through all namespaces. Who saw two of the numbers would know how much others
have done in between. A token is the number, encrypted and authenticated under a key that the bank's secret
gives, for one purpose and one namespace: it leads nowhere else, and cannot be made by hand.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Literal

Purpose = Literal["event", "page", "jobs", "stamp"]
_BYTES = 8
_LENGTH = 22
"""Characters of a token."""


class Seals:
    """Makes tokens of numbers, and numbers of tokens; all servers of a bank understand each other's."""

    def __init__(self, secret: str) -> None:
        """`secret`: known to no client."""
        root = hashlib.blake2b(secret.encode(), person=b"mega seals").digest()
        self._mark, self._mask = root[:32], root[32:]

    def digest(self, said: bytes) -> str:
        """32 hex digits that tell nothing of `said` to whoever does not know the secret."""
        return hashlib.blake2b(said, key=self._mark, digest_size=16, person=b"mega digest").hexdigest()

    def seal(self, number: int, purpose: Purpose, namespace: str) -> str:
        """A token of letters, digits, "-" and "_"; the same for the same number.

        Args:
            number: 0 <= number < 2**64.
            purpose: what the number counts.
            namespace: whose it is.
        """
        plain = number.to_bytes(_BYTES, "big")
        tag = self._tag(plain, purpose, namespace)
        return base64.urlsafe_b64encode(tag + _xor(plain, self._stream(tag))).rstrip(b"=").decode()

    def open(self, token: str, purpose: Purpose, namespace: str) -> int | None:
        """The number of a token; None: it was made for something else, or by somebody else."""
        if len(token) != _LENGTH or not token.isascii():
            return None
        try:
            both = base64.b64decode(token + "==", b"-_", validate=True)
        except ValueError:
            return None
        tag, plain = both[:_BYTES], _xor(both[_BYTES:], self._stream(both[:_BYTES]))
        genuine = hmac.compare_digest(tag, self._tag(plain, purpose, namespace))
        return int.from_bytes(plain, "big") if genuine else None

    def _tag(self, plain: bytes, purpose: str, namespace: str) -> bytes:
        said = b"\0".join([plain, purpose.encode(), namespace.encode()])
        return hashlib.blake2b(said, key=self._mark, digest_size=_BYTES).digest()

    def _stream(self, tag: bytes) -> bytes:
        return hashlib.blake2b(tag, key=self._mask, digest_size=_BYTES).digest()


def _xor(first: bytes, second: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(first, second, strict=True))
