"""What a patch of vLLM is: one replaced attribute, applied once, refused when the target has changed."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_mega.contract.tested import wanted
from vllm_mega.errors import UpstreamError

_MARKER = "__vllm_mega_patch__"
_ORIGINAL = "__wrapped__"
"""Where `inspect` looks for what a function stands before."""


@dataclass(frozen=True)
class Patch:
    """One replaced attribute of vLLM."""

    module: str
    target: str
    """Dotted name inside the module."""
    parameters: tuple[str, ...]
    """What the target's parameters must be; anything else means that upstream has changed."""
    why: str
    until: str
    make: Callable[[Any], Any]
    """From the original to its replacement."""

    def apply(self) -> None:
        """Replace the target, once.

        Raises:
            UpstreamError: the target is missing, or is not what this patch was written for.
        """
        owner_name, _, name = self.target.rpartition(".")
        try:
            owner = importlib.import_module(self.module)
            for part in owner_name.split(".") if owner_name else ():
                owner = getattr(owner, part)
            original = inspect.getattr_static(owner, name)
        except (ImportError, AttributeError) as error:
            raise UpstreamError(f"{self.module}:{self.target} is gone ({error}); {self.until}") from error
        function = original.__func__ if isinstance(original, classmethod) else original
        if hasattr(function, _MARKER):
            return
        found = tuple(inspect.signature(function).parameters)
        if found != self.parameters:
            raise UpstreamError(
                f"{self.module}:{self.target} takes {found}, expected {self.parameters}: "
                f"this vllm_mega was tested with vLLM {wanted('vllm')}"
            )
        replacement = self.make(function)
        setattr(replacement, _MARKER, self)
        setattr(replacement, _ORIGINAL, function)
        setattr(owner, name, classmethod(replacement) if isinstance(original, classmethod) else replacement)
