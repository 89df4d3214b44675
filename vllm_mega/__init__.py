"""Long-term memory in the weights of a language model, served by vLLM.

Public names come with their modules when they are first used: vLLM imports this package in every process, and
`import vllm_mega` costs nothing. What is not named here may change without notice.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_mega.bank.layout import NewMemory
    from vllm_mega.bank.reader import BankReader
    from vllm_mega.bank.writer import BankWriter
    from vllm_mega.config import GateSettings, MegaSettings
    from vllm_mega.errors import MegaError
    from vllm_mega.gate.gate import Gate
    from vllm_mega.mixture import Mixture
    from vllm_mega.offline import MegaAnswer, MegaLLM

__version__ = "0.1.0"
__all__ = [
    "BankReader",
    "BankWriter",
    "Gate",
    "GateSettings",
    "MegaAnswer",
    "MegaError",
    "MegaLLM",
    "MegaSettings",
    "Mixture",
    "NewMemory",
    "__version__",
]

_MODULES = {
    "BankReader": "bank.reader",
    "BankWriter": "bank.writer",
    "Gate": "gate.gate",
    "GateSettings": "config",
    "MegaAnswer": "offline",
    "MegaError": "errors",
    "MegaLLM": "offline",
    "MegaSettings": "config",
    "Mixture": "mixture",
    "NewMemory": "bank.layout",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
