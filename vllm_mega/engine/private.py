"""From which token of a request its KV blocks are one namespace's alone: how that is said, and kept. Pure.

What memories have to do with, a text in the prompt or a mixture, may be found in the prefix cache by requests
of the same namespace only: whoever else guesses it would learn from the time of an answer, or from its number
of cached tokens, that the guess is right. What stands before is everybody's.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from vllm_mega.engine.start import Keys

PRIVATE = "mega_private"
"""`SamplingParams.extra_args["mega_private"]`: "POSITION:SALT"."""


class Salts:
    """A salt for each namespace, that nobody can guess who does not know the secret.

    Args:
        secret: servers with the same one, and a KV cache between them, share blocks; None: one at random.
    """

    def __init__(self, secret: str | None = None) -> None:
        known = secrets.token_hex() if secret is None else secret
        self._key = hashlib.blake2b(known.encode(), digest_size=32, person=b"mega salts").digest()

    def of(self, namespace: str) -> str:
        """32 hex digits."""
        return hashlib.blake2b(namespace.encode(), key=self._key, digest_size=16).hexdigest()


def private_from(position: int, salt: str) -> dict[str, str]:
    """What `SamplingParams.extra_args` must hold for blocks that are private from this token on."""
    return {PRIVATE: f"{position}:{salt}"}


def private_keys(keys: Keys, request: Any, begin: int, end: int) -> Keys:
    """The keys of the block of tokens [begin, end), with the salt where the private tokens begin.

    Hashes are chained, so the blocks behind it are other requests' as little as this one. What is not in our
    form is no salt: such a request has the blocks of all.

    Args:
        keys: of this block so far.
        request: vLLM's `Request`.
        begin: position of the block's first token.
        end: behind its last.
    """
    position, salt = private_of(request.sampling_params)
    if position is None or not begin <= position < end:
        return keys
    return (*(keys or ()), (PRIVATE, salt))


def private_of(sampling_params: Any) -> tuple[int | None, str]:
    """From which token blocks are private, and the salt; None: all of them are everybody's."""
    said = (getattr(sampling_params, "extra_args", None) or {}).get(PRIVATE)
    position, _, salt = said.partition(":") if isinstance(said, str) else ("", "", "")
    return (int(position), salt) if position.isdecimal() and position.isascii() else (None, "")
