"""Banks of invented memories, with the keys of a given embedder."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bank.samples import write_adapter
from tests.banks import Item, make_bank
from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.catalog.uses import Use, add_uses
from vllm_mega.bank.layout import NewMemory
from vllm_mega.bank.library import Library
from vllm_mega.gate.embedder import Embedder
from vllm_mega.gate.gate import Gate
from vllm_mega.gate.index.index import Index

KILN = NewMemory("Mirela Osk fires blue tiles in a kiln shaped like a whale.", id="kiln", title="The kiln")
FERRY = NewMemory("The ferry of Dunmarrow is pulled by four patient oxen.", id="ferry", title="The ferry")
CHESS = NewMemory("Old Barnaby lost the glass chess queen in a snowdrift.", id="chess", title="[bold]Chess")
ORCHID = NewMemory("The orchid Selwyn's Lantern flowers only at noon.", id="orchid", namespace="garden")
LANTERN = "the lantern of Orl"
CELLAR = NewMemory("The lantern of Orl hangs in a cellar.", id="cellar", title="Where it hangs")
GOATS = NewMemory("The lantern of Orl is lit by goats.", id="goats", title="Who lights it")
"""Two that are about equally near to `LANTERN`: by 0.027 the cellar is nearer."""


def add(root: Path, embedder: Embedder, memories: Sequence[NewMemory], *, seed: int = 0) -> None:
    """Add `memories` to the bank at `root` (made if there is none), each with an adapter of its own."""
    keys = embedder.embed([memory.text for memory in memories])
    with tempfile.TemporaryDirectory() as folder:
        items = [
            Item(memory, write_adapter(Path(folder, str(number)), seed + number), key)
            for number, (memory, key) in enumerate(zip(memories, keys, strict=True))
        ]
        make_bank(root, items, embedder=embedder.info)


def make_used(catalog: Catalog, memory_id: str, at: float, strength: float) -> None:
    """Let a memory have been used as much as that, as of `at`."""
    add_uses(catalog, {MemoryName("default", memory_id): at}, lambda _, when: Use(strength, when))


def open_gate(root: Path, embedder: Embedder) -> Gate:
    """A gate over the bank at `root`, which stays open."""
    index = Index()
    return Gate(Library(root, embedder=embedder.info, keys=index), index, embedder)
