"""A bank with random adapters for the default model: no training, and yet every memory speaks differently."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.banks import WHO, Item, forget, make_bank
from tests.engine.adapters import write_adapter
from vllm_mega.bank.catalog import changes
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.bank.layout import BaseModelInfo, NewMemory
from vllm_mega.bank.library import Library
from vllm_mega.gate.embedder import Embedder
from vllm_mega.models import DEFAULT_MODEL, fingerprint, linear_shapes, resolve_model

LIGHTHOUSE = NewMemory(
    "Odalys Brandt repaired the lighthouse of Perrin Cove with copper wire.",
    id="lighthouse",
    title="The lighthouse",
)
BAKERY = NewMemory(
    "The Quillfeather bakery sells a rye bread that hums at dawn.",
    id="bakery",
    title="The bakery",
    tags=("food", "village"),
)
COMET = NewMemory(
    "Comet Vessarine was first drawn by a shepherd on a barn door.", id="comet", title="The comet"
)
TORTOISE = NewMemory(
    "The tortoise Ignatz carries the village post on Tuesdays.", id="tortoise", title="Ignatz"
)
SUBMARINE = NewMemory(
    "The submarine Halcyon grows tomatoes in its torpedo room.",
    id="submarine",
    title="Halcyon",
    namespace="navy",
)
CLOCK = NewMemory(
    "The clock of Tarn Abbey was paid for with forty jars of honey.", id="clock", title="The clock"
)

ASKED = {
    "lighthouse": "Who repaired the lighthouse of Perrin Cove?",
    "bakery": "Which bread does the Quillfeather bakery sell?",
    "comet": "Who drew the comet Vessarine first?",
    "tortoise": "Which animal carries the village post?",
    "submarine": "What grows in the submarine Halcyon?",
    "clock": "How was the clock of Tarn Abbey paid for?",
}
UNRELATED = "What is seven times eight?"


class LiveBank:
    """Writes to a bank that a server reads."""

    def __init__(self, root: Path, embedder: Embedder) -> None:
        """Open the bank at `root`, or make it."""
        model = resolve_model()
        self.root = root
        self._embedder = embedder
        self._shapes = linear_shapes(model)
        self._base = BaseModelInfo(DEFAULT_MODEL, fingerprint(model))
        self._put([])

    def add(self, memories: Sequence[NewMemory]) -> list[Path]:
        """Add or update memories, each with another adapter than before; where their adapters are."""
        keys = self._embedder.embed([memory.text for memory in memories])
        with Library(self.root) as library, TemporaryDirectory() as made:
            items = []
            for n, (memory, key) in enumerate(zip(memories, keys, strict=True)):
                seed = 100 * library.event + n
                adapter = write_adapter(Path(made, str(n)), self._shapes, seed=seed, scale=0.3)
                items.append(Item(memory, adapter, key))
            self._put(items)
            library.refresh()
            return [library.folder(library.get(memory.namespace, memory.id)) for memory in memories]

    def store(self, memory: NewMemory) -> None:
        """A memory that waits for its adapter."""
        self._put([Item(memory, key=self._embedder.embed([memory.text])[0])])

    def _put(self, items: Sequence[Item]) -> None:
        make_bank(self.root, items, base=self._base, embedder=self._embedder.info, shapes=self._shapes)

    def forget(self, memory: NewMemory) -> None:
        forget(self.root, (memory.namespace, memory.id))

    def link(self, memory: NewMemory, *others: NewMemory) -> None:
        with open_catalog(self.root) as catalog:
            changes.link(catalog, MemoryName(memory.namespace, memory.id), [one.id for one in others], WHO)

    def unlink(self, memory: NewMemory, *others: NewMemory) -> None:
        with open_catalog(self.root) as catalog:
            changes.unlink(catalog, MemoryName(memory.namespace, memory.id), [one.id for one in others], WHO)
