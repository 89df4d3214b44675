"""The memories that stay in host memory: all that the engine asks a bank for."""

from __future__ import annotations

from vllm_mega.bank.catalog.catalog import Catalog, open_catalog
from vllm_mega.bank.catalog.reading import get_version
from vllm_mega.bank.catalog.store import adapter_folder
from vllm_mega.config import MegaSettings
from vllm_mega.errors import MemoryNotReadyError
from vllm_mega.mixture import Component


def pinned(settings: MegaSettings) -> list[Component]:
    """The adapters of the memories that `settings` pins, as they are now, of weight 0.

    The catalog is open meanwhile, and closed afterwards.

    Raises:
        MemoryNotFoundError: the namespace has no such memory.
        MemoryNotReadyError: a memory has no adapter.
        BankError: the catalog cannot be read.
    """
    with open_catalog(settings.bank, settings.catalog) as catalog:
        return [_component(catalog, settings.namespace, memory) for memory in settings.pinned]


def _component(catalog: Catalog, namespace: str, memory: str) -> Component:
    adapter = get_version(catalog, namespace, memory).adapter
    if adapter is None:
        raise MemoryNotReadyError(
            f"the memory {namespace}/{memory} has no adapter: train it, or pin it no more"
        )
    return Component(adapter, str(adapter_folder(catalog, adapter)), 0)
