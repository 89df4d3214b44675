"""Whether a package is what was expected of it. Pure: what the package is, a `View` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from vllm_mega.contract.signature import Signature
from vllm_mega.contract.use import Pin, Use, pins


class Owner(Protocol):
    """A module or a class."""

    def has(self, name: str) -> bool:
        """Whether it, or an object of the class, has this name."""
        ...

    def signature(self, name: str) -> Signature | None:
        """Of the function with this name; None: it is none."""
        ...

    def slotted(self) -> bool:
        """Whether its objects have only the attributes that it names."""
        ...

    def says(self, text: str) -> bool:
        """Whether the source of its module has this text."""
        ...


class View(Protocol):
    """A package, imported or read."""

    def find(self, owner: str) -> Owner | None:
        """`module` or `module:Class`; None: there is none."""
        ...


class Finding(NamedTuple):
    """A name that is not what was expected."""

    name: str
    """Where it is, with its name."""
    found: str
    expected: str
    use: Use

    def __str__(self) -> str:
        return f"{self.name} {self.found}, expected {self.expected} (used by {self.use.by})"


def findings(uses: Iterable[Use], view: View) -> list[Finding]:
    """All that is not as `uses` expect it, in their order; of an owner that is gone only that."""
    return [finding for use in uses for finding in _of_use(use, view.find(use.owner))]


def _of_use(use: Use, owner: Owner | None) -> Iterator[Finding]:
    if owner is None:
        yield Finding(use.owner, "is gone", "it to be there", use)
        return
    for pin in pins(use):
        wrong = _SIGNED[pin.kind](pin, owner) if pin.kind in _SIGNED else _plain(pin, owner)
        if wrong:
            yield Finding(pin.full_name, *wrong, use)


Wrong = tuple[str, str] | None
"""What was found, and what was expected."""


def _plain(pin: Pin, owner: Owner) -> Wrong:
    if pin.kind == "added":
        return ("is there", "it free for ours") if owner.has(pin.name) else None
    if pin.kind == "swapped":
        return ("has __slots__", "objects that can become ours") if owner.slotted() else None
    there = owner.says(pin.name) if pin.kind == "said" else owner.has(pin.name)
    return None if there else ("is gone", "it to be there")


def _replaced(pin: Pin, owner: Owner) -> Wrong:
    found = owner.signature(pin.name)
    if found is None:
        return _no_function(pin, owner)
    written = found.names if pin.kind == "patched" else found.words
    return None if written == pin.expected else (f"takes ({written})", f"({pin.expected})")


def _called(pin: Pin, owner: Owner) -> Wrong:
    found = owner.signature(pin.name)
    if found is None:
        return _no_function(pin, owner)
    return None if found.takes(pin.expected) else (f"takes ({found.words})", f"({pin.expected}) to fit")


def _no_function(pin: Pin, owner: Owner) -> Wrong:
    return "is no function" if owner.has(pin.name) else "is gone", f"a function of ({pin.expected})"


_SIGNED = {"patched": _replaced, "overridden": _replaced, "called": _called}
