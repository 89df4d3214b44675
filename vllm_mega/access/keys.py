"""Keys: made at random, kept as digests, compared in constant time. Pure.

A key has 256 random bits, so its SHA-256 can be kept: nobody finds a key by trying. A slow digest (scrypt)
protects passwords, which people choose; here it would protect nothing, and cost every request its time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from vllm_mega.access.limits import Limits
from vllm_mega.access.principals import Principal, Role
from vllm_mega.config import check_name, repeated
from vllm_mega.errors import ConfigError

PREFIX = "mega-"
"""Keys begin with it, so that programs which look for secrets find them."""
_DIGEST = re.compile("[0-9a-f]{64}")
OTHERS = "*"
"""Stands for all namespaces that have no limits of their own."""
_NO_DIGEST = "0" * 64


class KeyEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key's holder, and the digest of the key."""

    name: str
    digest: str
    """SHA-256, 64 hex digits."""
    role: Role
    namespaces: tuple[str, ...] | None = None
    """Those that it is for; None: all."""
    added: float = 0.0
    """Seconds since 1970."""

    def __post_init__(self) -> None:
        check_name(self.name, "the name of a key")
        if not _DIGEST.fullmatch(self.digest):
            raise ConfigError(f"the digest of key {self.name!r} must have 64 hex digits")
        if self.role == "admin" and self.namespaces is not None:
            raise ConfigError(f"key {self.name!r}: an admin's key is for all namespaces, so name none")
        for namespace in _checked(self):
            check_name(namespace, "a namespace")

    @property
    def principal(self) -> Principal:
        """Whoever has the key."""
        return Principal(self.name, self.role, self.namespaces)


class KeyBook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All keys of a server, and the limits of namespaces."""

    keys: tuple[KeyEntry, ...] = ()
    limits: Annotated[dict[str, Limits], Meta(description="by namespace; '*': of all others")] = {}

    def __post_init__(self) -> None:
        if twice := repeated(entry.name for entry in self.keys):
            raise ConfigError(f"there is more than one key called {', '.join(twice)}")
        for namespace in self.limits:
            if namespace != OTHERS:
                check_name(namespace, "a namespace with limits")

    def find(self, key: str) -> Principal | None:
        """Whose key this is; None: nobody's. Takes the same time whichever it is, and if it is none."""
        digest, found = digest_of(key), None
        for entry in self.keys:
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        return None if found is None else found.principal

    def limits_of(self, namespace: str) -> Limits:
        """The limits of a namespace."""
        return self.limits.get(namespace) or self.limits.get(OTHERS) or Limits()

    def with_limits(self, namespace: str, limits: Limits) -> KeyBook:
        """The book with other limits for a namespace."""
        return msgspec.structs.replace(self, limits={**self.limits, namespace: limits})

    def with_key(self, entry: KeyEntry) -> KeyBook:
        """The book with one more key.

        Raises:
            ConfigError: there is a key of this name.
        """
        if any(known.name == entry.name for known in self.keys):
            raise ConfigError(f"there is a key called {entry.name!r}: revoke it, or choose another name")
        return msgspec.structs.replace(self, keys=(*self.keys, entry))

    def without_key(self, name: str) -> KeyBook:
        """The book without the key called `name`.

        Raises:
            ConfigError: there is none.
        """
        left = tuple(entry for entry in self.keys if entry.name != name)
        if len(left) == len(self.keys):
            raise ConfigError(f"there is no key called {name!r}: see keys list")
        return msgspec.structs.replace(self, keys=left)


def digest_of(key: str) -> str:
    """What is kept of a key; of what can be no key, a digest that none has."""
    return hashlib.sha256(key.encode()).hexdigest() if key.isascii() else _NO_DIGEST


def new_key(name: str, role: Role, namespaces: Sequence[str] | None) -> tuple[str, KeyEntry]:
    """A new key, which is kept nowhere, and its entry.

    Raises:
        ConfigError: a name that cannot be one, or namespaces that do not go with the role.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    named = None if namespaces is None else tuple(dict.fromkeys(namespaces))
    return key, KeyEntry(name, digest_of(key), role, named, round(time.time(), 3))


def _checked(entry: KeyEntry) -> Sequence[str]:
    if entry.namespaces is None:
        return ()
    if not entry.namespaces:
        raise ConfigError(f"key {entry.name!r} is for no namespace: name one, or all")
    if twice := repeated(entry.namespaces):
        raise ConfigError(f"key {entry.name!r} names {', '.join(twice)} more than once")
    return entry.namespaces
