"""What one of our modules relies on in a module or a class of another package. Pure data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from vllm_mega.contract.tested import release

Kind = Literal["patched", "overridden", "called", "read", "added", "said", "swapped"]

ALWAYS = "it has a public way to the same"


@dataclass(frozen=True)
class Use:
    """What `by` relies on in `owner`.

    Parameters are written as words: a name, `name=` with a default, `*` before those that are given by
    keyword alone, `*args`, `**kwargs`; `async` stands first where the function is one.
    """

    owner: str
    """`module` or `module:Class`."""
    by: str
    """Our module, without `vllm_mega.`."""
    why: str
    until: str = ALWAYS
    """When it can go."""
    patches: Mapping[str, str] = field(default_factory=dict)
    """Names that we replace -> the names of their parameters."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Methods that a class of ours overrides -> their parameters."""
    calls: Mapping[str, str] = field(default_factory=dict)
    """Functions that we call -> what we give: by position, and `name=` by keyword."""
    reads: str = ""
    """Names that must be there: of the module, of the class, or of its instances."""
    adds: str = ""
    """Names that a class of ours adds: they must not be there."""
    says: tuple[str, ...] = ()
    """Texts that must stand in the source of the module."""
    swapped: bool = False
    """Whether its instances become those of a class of ours."""
    only: str = ""
    """The one release of the package in which it is so, as `0.33`; empty: in all."""

    @property
    def package(self) -> str:
        """The package that `owner` is part of."""
        return self.owner.partition(":")[0].partition(".")[0]


class Pin(NamedTuple):
    """One name of a `Use`."""

    use: Use
    kind: Kind
    name: str
    expected: str
    """Words of parameters; empty for what has none."""

    @property
    def full_name(self) -> str:
        """Where it is, with its name."""
        text = self.name if self.kind != "said" else repr(self.name)
        return ".".join(filter(None, (self.use.owner, text)))


def holding(uses: Iterable[Use], version: Callable[[str], str]) -> Iterator[Use]:
    """Those of `uses` that are about the releases in question; `version` tells that of a package."""
    for use in uses:
        if not use.only or use.only == release(use.package, version(use.package)):
            yield use


def pins(use: Use) -> Iterator[Pin]:
    """Every name of `use`."""
    if use.swapped:
        yield Pin(use, "swapped", "", "")
    signed: tuple[tuple[Kind, Mapping[str, str]], ...] = (
        ("patched", use.patches),
        ("overridden", use.overrides),
        ("called", use.calls),
    )
    for kind, names in signed:
        for name, words in names.items():
            yield Pin(use, kind, name, words)
    plain: tuple[tuple[Kind, tuple[str, ...]], ...] = (
        ("read", tuple(use.reads.split())),
        ("added", tuple(use.adds.split())),
        ("said", use.says),
    )
    for kind, texts in plain:
        for name in texts:
            yield Pin(use, kind, name, "")
