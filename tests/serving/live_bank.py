"""A bank with random adapters for the default model: no training, and yet every memory speaks differently."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.engine.adapters import write_adapter
from vllm_mega.bank.layout import BaseModelInfo, MemoryEntry, NewMemory
from vllm_mega.bank.writer import BankWriter, StagedMemory
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
        base = BaseModelInfo(DEFAULT_MODEL, fingerprint(model))
        BankWriter.open_or_create(root, base, embedder.info).close()

    def add(self, memories: Sequence[NewMemory]) -> list[MemoryEntry]:
        keys = self._embedder.embed([memory.text for memory in memories])
        with BankWriter.open(self.root) as writer:
            staged = []
            for n, (memory, key) in enumerate(zip(memories, keys, strict=True)):
                seed = 100 * writer.snapshot.generation + n  # an update gets another adapter
                folder = write_adapter(writer.stage() / "adapter", self._shapes, seed=seed, scale=0.3)
                staged.append(StagedMemory(memory, folder, key))
            return writer.add(staged, self._shapes)

    def forget(self, memory: NewMemory) -> None:
        with BankWriter.open(self.root) as writer:
            writer.forget([(memory.namespace, memory.id)])
