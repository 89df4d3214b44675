"""Principals: who asks, in which role, and for which namespaces. Pure."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from vllm_mega.errors import ForbiddenError

Role = Literal["read", "write", "admin"]
"""Ask and look; change as well; whatever concerns the whole server as well."""
ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what those before it may."""


class Principal(msgspec.Struct, frozen=True):
    """Somebody who asks a server: who it is, and what it may do."""

    name: str
    """For histories and logs."""
    role: Role
    namespaces: tuple[str, ...] | None
    """Of which it may know; None: of all."""

    def may(self, role: Role, namespace: str) -> bool:
        """Whether it may do in `namespace` what needs `role`."""
        enough = ROLES.index(self.role) >= ROLES.index(role)
        return enough and (self.namespaces is None or namespace in self.namespaces)

    def check(self, role: Role, namespace: str) -> None:
        """Refuse what `may` denies. The message is the same whether or not the namespace has memories.

        Raises:
            ForbiddenError: says which right is missing.
        """
        if not self.may("read", namespace):
            raise ForbiddenError(f"this key is not for the namespace {namespace!r}: name one that it is for")
        if not self.may(role, namespace):
            raise ForbiddenError(f"this needs the role {role}, and this key has the role {self.role}")

    def check_whole(self, what: str) -> None:
        """Refuse `what`, which tells of the whole bank, whoever may not know all of it.

        Raises:
            ForbiddenError: it is for some namespaces alone.
        """
        if self.namespaces is not None:
            raise ForbiddenError(f"{what} tells of the whole bank: use a key that is for all namespaces")

    def home(self, default: str) -> str:
        """The namespace that it means when it names none: its first, or `default` if it has all."""
        return self.namespaces[0] if self.namespaces else default


OPERATOR = Principal("operator", "admin", None)
"""Whoever runs the process, and whoever asks a server that has no keys with roles."""
