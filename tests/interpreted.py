"""Triton's kernels on a CPU, by its interpreter."""

from __future__ import annotations

from typing import Any

import pytest
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction


def interpret(monkeypatch: pytest.MonkeyPatch, names: dict[str, Any]) -> None:
    """Put interpreted kernels in place of the compiled ones among `names`, and of those that they call.

    TRITON_INTERPRET=1 would do the same, but for the whole process and what it starts, and only if nothing
    has imported Triton before; other tests boot vLLM.
    """
    for name, value in list(names.items()):
        if isinstance(value, JITFunction):
            monkeypatch.setitem(names, name, InterpretedFunction(value.fn))
            if value.fn.__globals__ is not names:
                interpret(monkeypatch, value.fn.__globals__)
