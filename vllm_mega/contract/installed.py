"""A package as it is installed and imported: what the check at start looks at. Costs milliseconds."""

from __future__ import annotations

import dis
import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import CodeType
from typing import Any

from vllm_mega.contract.signature import Signature, of_object

_NOTHING = object()


class Installed:
    """Everything that can be imported."""

    def find(self, owner: str) -> ImportedOwner | None:
        """See `View`. A module of which only the source is looked at is not imported."""
        module, _, class_name = owner.partition(":")
        try:
            if importlib.util.find_spec(module) is None:
                return None
            found = ImportedOwner(module, class_name)
            return found if not class_name or isinstance(found.thing, type) else None
        except (ImportError, AttributeError, ValueError):  # ValueError: a module that was made by hand
            return None


class ImportedOwner:
    """See `Owner`."""

    def __init__(self, module: str, class_name: str) -> None:
        self._module, self._class = module, class_name

    @cached_property
    def thing(self) -> Any:
        """The module or the class; who relies on it imports it anyway."""
        module = importlib.import_module(self._module)
        return getattr(module, self._class) if self._class else module

    def has(self, name: str) -> bool:
        """See `Owner`."""
        if not isinstance(self.thing, type):
            return hasattr(self.thing, name)
        classes = self.thing.__mro__
        return any(
            name in vars(one) or name in vars(one).get("__annotations__", ()) for one in classes
        ) or any(_sets(code, name) for one in classes for code in _codes(one))

    def signature(self, name: str) -> Signature | None:
        """See `Owner`."""
        found = inspect.getattr_static(self.thing, name, _NOTHING)
        if found is _NOTHING and not isinstance(self.thing, type):
            found = getattr(self.thing, name, _NOTHING)
        try:
            return of_object(getattr(found, "__func__", found))
        except (TypeError, ValueError):
            return None

    def slotted(self) -> bool:
        """See `Owner`."""
        return isinstance(self.thing, type) and not self.thing.__dictoffset__

    def says(self, text: str) -> bool:
        """See `Owner`."""
        spec = importlib.util.find_spec(self._module)
        assert spec is not None
        return text in Path(str(spec.origin)).read_text(encoding="utf-8")


def _codes(owner: type) -> Iterator[CodeType]:
    """Of the methods that the class itself defines."""
    for value in vars(owner).values():
        function = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else None
        if inspect.isfunction(function):
            yield function.__code__


def _sets(code: CodeType, name: str) -> bool:
    """Whether the code sets an attribute of this name, of whatever object."""
    return name in code.co_names and any(
        step.opname == "STORE_ATTR" and step.argval == name for step in dis.get_instructions(code)
    )
