"""Banks of invented memories, with the keys of a given embedder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bank.samples import BASE, SHAPES, write_adapter
from vllm_mega.bank.layout import NewMemory
from vllm_mega.bank.writer import BankWriter, StagedMemory
from vllm_mega.gate.embedder import Embedder

KILN = NewMemory("Mirela Osk fires blue tiles in a kiln shaped like a whale.", id="kiln", title="The kiln")
FERRY = NewMemory("The ferry of Dunmarrow is pulled by four patient oxen.", id="ferry", title="The ferry")
CHESS = NewMemory("Old Barnaby lost the glass chess queen in a snowdrift.", id="chess", title="[bold]Chess")
ORCHID = NewMemory("The orchid Selwyn's Lantern flowers only at noon.", id="orchid", namespace="garden")


def add(root: Path, embedder: Embedder, memories: Sequence[NewMemory], *, seed: int = 0) -> None:
    """Add `memories` to the bank at `root` (made if there is none), each with an adapter of its own."""
    keys = embedder.embed([memory.text for memory in memories])
    with BankWriter.open_or_create(root, BASE, embedder.info) as writer:
        staged = [
            StagedMemory(memory, write_adapter(writer.stage() / "adapter", seed + number), key)
            for number, (memory, key) in enumerate(zip(memories, keys, strict=True))
        ]
        writer.add(staged, SHAPES)
