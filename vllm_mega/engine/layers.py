"""Which of a model's linear layers get slots: names, as vLLM's `lora_target_modules` has them. Pure.

vLLM takes last names ("up_proj"), and whole names of its own layers; we take whole names of modules of the
checkpoint, too, as adapters have them, whatever vLLM packs them into.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeVar

T = TypeVar("T")


def full_names(targets: Iterable[str] | None) -> list[str]:
    """Those of the names that are whole ones."""
    return [name for name in targets or () if "." in name]


def leaf(name: str) -> str:
    """The last name of a module."""
    return name.rpartition(".")[2]


def shortest(touched: Collection[str], every: Iterable[str]) -> list[str]:
    """Names for `lora_target_modules` that say `touched`: a last name where it means all that bear it.

    Args:
        touched: modules that adapters change.
        every: all linear modules of the model, by whole names.
    """
    partly = {leaf(name) for name in every if name not in touched}
    return sorted({name if leaf(name) in partly else leaf(name) for name in touched})


def with_slots(shapes: dict[str, T], targets: Collection[str] | None) -> dict[str, T]:
    """Those of `shapes`, by module, that `targets` give slots to.

    Targets may name vLLM's layers, which this does not know: then none is left out.
    """
    known = shapes.keys() | {leaf(name) for name in shapes}
    if not targets or not known.issuperset(targets):
        return shapes
    return {name: shape for name, shape in shapes.items() if not {name, leaf(name)}.isdisjoint(targets)}
