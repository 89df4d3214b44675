"""Long-term memory in the weights of a language model, served by vLLM.

Public names come with their modules when they are first used: vLLM imports this package in every process, and
`import vllm_mega` costs nothing. What is not named here may change without notice.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_mega.bank.catalog.catalog import Catalog, create_catalog, open_catalog
    from vllm_mega.bank.catalog.changes import link, pin, restore, retire, tag, unlink
    from vllm_mega.bank.catalog.expiring import expire
    from vllm_mega.bank.catalog.forgetting import Receipt, forget
    from vllm_mega.bank.catalog.jobs import request_training
    from vllm_mega.bank.catalog.known import list_jobs
    from vllm_mega.bank.catalog.reading import list_memories
    from vllm_mega.bank.catalog.records import (
        BankSettings,
        Event,
        Filter,
        JobStatus,
        Memory,
        MemoryName,
        Page,
        Row,
        Source,
        Version,
    )
    from vllm_mega.bank.layout import QA, BaseModelInfo, EmbedderInfo, NewMemory
    from vllm_mega.bank.library import Library
    from vllm_mega.bank.opening import open_or_create
    from vllm_mega.config import GateSettings, MegaSettings
    from vllm_mega.errors import MegaError
    from vllm_mega.gate.embedder import Embedder, load_embedder
    from vllm_mega.gate.gate import Decision, Gate, Hit, Query
    from vllm_mega.memories.exporting import export_bank
    from vllm_mega.memories.importing import import_bank
    from vllm_mega.memories.reading import Entry, History, get_entry, history
    from vllm_mega.memories.remembering import remember, remember_adapter
    from vllm_mega.memories.searching import Found, search
    from vllm_mega.memories.updating import Update, update
    from vllm_mega.mixture import Mixture
    from vllm_mega.models import BaseWeights
    from vllm_mega.offline import MegaAnswer, MegaLLM

__version__ = "0.1.0"
__all__ = [
    "QA",
    "BankSettings",
    "BaseModelInfo",
    "BaseWeights",
    "Catalog",
    "Decision",
    "Embedder",
    "EmbedderInfo",
    "Entry",
    "Event",
    "Filter",
    "Found",
    "Gate",
    "GateSettings",
    "History",
    "Hit",
    "JobStatus",
    "Library",
    "MegaAnswer",
    "MegaError",
    "MegaLLM",
    "MegaSettings",
    "Memory",
    "MemoryName",
    "Mixture",
    "NewMemory",
    "Page",
    "Query",
    "Receipt",
    "Row",
    "Source",
    "Update",
    "Version",
    "__version__",
    "create_catalog",
    "expire",
    "export_bank",
    "forget",
    "get_entry",
    "history",
    "import_bank",
    "link",
    "list_jobs",
    "list_memories",
    "load_embedder",
    "open_catalog",
    "open_or_create",
    "pin",
    "remember",
    "remember_adapter",
    "request_training",
    "restore",
    "retire",
    "search",
    "tag",
    "unlink",
    "update",
]

_NAMES = {
    "bank.catalog.catalog": ("Catalog", "create_catalog", "open_catalog"),
    "bank.catalog.changes": ("link", "pin", "restore", "retire", "tag", "unlink"),
    "bank.catalog.expiring": ("expire",),
    "bank.catalog.forgetting": ("Receipt", "forget"),
    "bank.catalog.jobs": ("request_training",),
    "bank.catalog.known": ("list_jobs",),
    "bank.catalog.reading": ("list_memories",),
    "bank.catalog.records": (
        "BankSettings", "Event", "Filter", "JobStatus", "Memory", "MemoryName", "Page", "Row", "Source",
        "Version",
    ),
    "bank.layout": ("QA", "BaseModelInfo", "EmbedderInfo", "NewMemory"),
    "bank.library": ("Library",),
    "bank.opening": ("open_or_create",),
    "config": ("GateSettings", "MegaSettings"),
    "errors": ("MegaError",),
    "gate.embedder": ("Embedder", "load_embedder"),
    "gate.gate": ("Decision", "Gate", "Hit", "Query"),
    "memories.exporting": ("export_bank",),
    "memories.importing": ("import_bank",),
    "memories.reading": ("Entry", "History", "get_entry", "history"),
    "memories.remembering": ("remember", "remember_adapter"),
    "memories.searching": ("Found", "search"),
    "memories.updating": ("Update", "update"),
    "mixture": ("Mixture",),
    "models": ("BaseWeights",),
    "offline": ("MegaAnswer", "MegaLLM"),
}  # fmt: skip
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
