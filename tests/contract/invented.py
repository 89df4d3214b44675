"""Packages that are what a `Use` expects, or all but one thing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vllm_mega.contract.use import Pin, Use, pins

SIGNED = ("patched", "overridden", "called")


class Change(NamedTuple):
    """One thing that is otherwise."""

    pin: Pin
    how: str
    """`gone`, `there`, `parameter`, `async` or `slots`."""


def changes(use: Use) -> Iterator[Change]:
    """Everything that can go wrong with a use."""
    for pin in pins(use):
        if pin.kind in SIGNED:
            yield from (
                Change(pin, how)
                for how in ("parameter", "gone")
                if how != "gone" or pin.name not in dir(object)
            )
            if pin.kind != "patched":
                yield Change(pin, "async")
        else:
            yield Change(pin, {"added": "there", "swapped": "slots"}.get(pin.kind, "gone"))


def elsewhere(use: Use, package: str) -> Use:
    """The same of a package with another name."""
    _, dot, rest = use.owner.partition(".")
    return dataclasses.replace(use, owner=f"{package}{dot}{rest}")


def write(root: Path, use: Use, change: Change | None = None) -> None:
    """Write the package of `use` into `root`."""
    module, _, class_name = use.owner.partition(":")
    file = root.joinpath(*module.split(".")).with_suffix(".py")
    if "." not in module:
        file = root / module / "__init__.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    for folder in file.relative_to(root).parents[:-1]:
        (root / folder / "__init__.py").touch()
    file.write_text("\n".join(lines(use, class_name, change)) + "\n")


def lines(use: Use, class_name: str, change: Change | None) -> Iterator[str]:
    """The source of the module."""
    indent = "    " if class_name else ""
    if class_name:
        above = "__slots__ = ()" if change and change.how == "slots" else "pass"
        yield f"class Above:\n    {above}\n\nclass {class_name}(Above):\n    pass"
    found = list(pins(use))
    for n, pin in enumerate(found):
        how = change.how if change and change.pin[1:] == pin[1:] else ""
        for line in written(pin, n if class_name else 0, how):
            yield indent + line


def written(pin: Pin, n: int, how: str) -> Iterator[str]:
    """A pin, with what is otherwise about it."""
    if how == "gone" or (pin.kind == "added" and how != "there"):
        return
    if pin.kind in SIGNED:
        yield function(pin, how)
    elif pin.kind == "said":
        yield f"_TEXT = r'''{pin.name}'''"
    elif pin.kind == "swapped":
        if how == "slots":
            yield "__slots__ = ()"
    elif n % 3 == 0 or pin.kind == "added":
        yield f"{pin.name} = None"
    elif n % 3 == 1:
        yield f"{pin.name}: int"
    else:
        yield f"def set_{n}(self, value):\n        self.{pin.name} = value"


def function(pin: Pin, how: str) -> str:
    """A function that can be called, or that takes what `pin` says."""
    words = pin.expected.split()
    is_async = ("async" in words) != (how == "async")
    names = [word for word in words if word != "async"]
    if ":" in pin.use.owner and pin.kind == "called":
        names.insert(0, "self")
    if len(set(names)) < len(names):
        names = [*dict.fromkeys(names[:2]), "*args"]
    if how == "parameter":
        names.insert(1, "another")
    defaults = ", ".join(word + "None" if word.endswith("=") else word for word in names)
    return f"{'async ' * is_async}def {pin.name}({defaults}): ..."
