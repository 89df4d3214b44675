"""Training many memories into a bank, one commit each: killed at any moment, the next run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_mega.bank.identity import memory_id, text_digest
from vllm_mega.bank.layout import MANIFEST, BaseModelInfo, NewMemory
from vllm_mega.bank.reader import BankReader, BankSnapshot
from vllm_mega.bank.writer import BankWriter, StagedMemory
from vllm_mega.gate.embedder import Embedder, load_embedder
from vllm_mega.models import DEFAULT_MODEL, fingerprint, linear_shapes, resolve_model
from vllm_mega.training.export import export
from vllm_mega.training.settings import TrainSettings
from vllm_mega.training.trainer import Fit, Trainer


@dataclass(frozen=True)
class Trained:
    """One memory that is in the bank now."""

    namespace: str
    id: str
    steps: int
    loss: float
    recalled: bool
    """Whether the text came word for word before the steps ran out."""
    seconds: float
    bytes: int


@dataclass
class TrainReport:
    """What a run has done."""

    trained: list[Trained] = field(default_factory=list)
    skipped: int = 0
    """Memories that the bank had already, trained on the same text with the same settings."""
    seconds: float = 0.0


Progress = Callable[[int, int, Trained | None], None]
"""Called with (memories done, memories to train, the last one): once before the first, then after each."""


def train(
    bank: Path,
    memories: Sequence[NewMemory],
    model: str | None = None,
    embedder: str | None = None,
    settings: TrainSettings | None = None,
    progress: Progress = lambda _done, _total, _last: None,
) -> TrainReport:
    """Train an adapter for every memory that `bank` does not have yet, or has with other content.

    Args:
        bank: folder of the bank; made if there is none.
        memories: what to remember; no two with the same namespace and id (see `read_memories`).
        model: name, path or Hugging Face id of the base model; None: the bank's, or else the default.
        embedder: makes the keys; None: the bank's, or else the default.
        settings: None: the defaults.
        progress: is told after each memory.

    Raises:
        BankError: the bank cannot be written, or was made for another base model or embedder.
        ModelError: the model cannot be found or does not have the layers that the settings ask for.
        TrainingError: a loss that is not finite.
    """
    started = time.perf_counter()
    settings = settings or TrainSettings()
    manifest = BankReader(bank).snapshot().manifest if (bank / MANIFEST).exists() else None
    name = model or (manifest.base.name if manifest else DEFAULT_MODEL)
    path = resolve_model(name)
    base = BaseModelInfo(str(path) if Path(name).expanduser().is_dir() else name, fingerprint(path))
    keys = load_embedder(embedder or (manifest.embedder.name if manifest else None))
    with BankWriter.open_or_create(bank, base, keys.info) as writer:
        missing = [memory for memory in memories if not _is_there(writer.snapshot, memory, settings)]
        report = TrainReport(skipped=len(memories) - len(missing))
        if missing:
            progress(0, len(missing), None)
            job = _Job(writer, Trainer(path, settings), keys, base, linear_shapes(path))
            for done, memory in enumerate(missing, start=1):
                report.trained.append(job.add(memory))
                progress(done, len(missing), report.trained[-1])
    report.seconds = time.perf_counter() - started
    return report


def _is_there(snapshot: BankSnapshot, memory: NewMemory, settings: TrainSettings) -> bool:
    """Whether the bank has `memory` in this state, trained with these settings."""
    key = (memory.namespace, memory_id(memory))
    entry = next((entry for entry in snapshot.manifest.memories if entry.key == key), None)
    return (
        entry is not None
        and entry.text_digest == text_digest(memory)
        and entry.training.get("digest") == settings.digest
    )


@dataclass(frozen=True)
class _Job:
    """All that it takes to train a memory and add it."""

    writer: BankWriter
    trainer: Trainer
    keys: Embedder
    base: BaseModelInfo
    shapes: dict[str, tuple[int, int]]

    def add(self, memory: NewMemory) -> Trained:
        """Train `memory` and commit it."""
        trainer = self.trainer
        fit = trainer.fit(memory)
        folder = self.writer.stage()
        export(folder, fit.tensors, self.base.name, trainer.settings, trainer.stack.layers)
        key = self.keys.embed([memory.text])[0]
        item = StagedMemory(memory, folder, key, _record(trainer.settings, fit))
        (entry,) = self.writer.add([item], self.shapes)
        return Trained(
            entry.namespace, entry.id, fit.steps, fit.loss, fit.recalled, fit.seconds, entry.adapter_bytes
        )


def _record(settings: TrainSettings, fit: Fit) -> dict[str, Any]:
    """What the bank notes about a training; the digest tells a later run that there is nothing to do."""
    return {
        "digest": settings.digest,
        "rank": settings.rank,
        "seed": settings.seed,
        "steps": fit.steps,
        "loss": round(fit.loss, 4),
        "recalled": fit.recalled,
        "seconds": round(fit.seconds, 2),
    }
