"""Training many memories into a bank, one commit for those that were trained side by side.

Killed at any moment, the next run goes on, and in the end the bank is that of a run that nobody killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from vllm_mega.bank.identity import memory_id, text_digest
from vllm_mega.bank.layout import MANIFEST, BaseModelInfo, Manifest, NewMemory
from vllm_mega.bank.reader import BankReader, BankSnapshot
from vllm_mega.bank.writer import BankWriter, StagedMemory
from vllm_mega.errors import BankMismatchError, TrainingError
from vllm_mega.gate.embedder import Embedder, Vectors, load_embedder
from vllm_mega.models import DEFAULT_MODEL, fingerprint, linear_shapes, resolve_model
from vllm_mega.models.chat_format import ChatFormat, load_chat_format
from vllm_mega.models.chat_template import template_name
from vllm_mega.training.encoding import unfit
from vllm_mega.training.export import export
from vllm_mega.training.job import Fit
from vllm_mega.training.lora import layer_index
from vllm_mega.training.scale_out import Fitter, LocalFitter
from vllm_mega.training.settings import TrainSettings


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


MakeFitter = Callable[[Path, TrainSettings], Fitter]
"""What trains, made of the checkpoint and the settings."""

Progress = Callable[[int, int, Trained | None], None]
"""Called with (memories done, memories to train, the last one): once before the first, then after each."""


def train(
    bank: Path,
    memories: Sequence[NewMemory],
    model: str | None = None,
    embedder: str | None = None,
    settings: TrainSettings | None = None,
    progress: Progress = lambda _done, _total, _last: None,
    fitter: MakeFitter = LocalFitter,
) -> TrainReport:
    """Train an adapter for every memory that `bank` does not have yet, or has with other content.

    Args:
        bank: folder of the bank; made if there is none.
        memories: what to remember; no two with the same namespace and id (see `read_memories`).
        model: name, path or Hugging Face id of the base model; None: the bank's, or else the default.
        embedder: makes the keys; None: the bank's, or else the default.
        settings: None: the defaults.
        progress: is told after each memory.
        fitter: what trains, made of the checkpoint and the settings when there is something to train.

    Raises:
        BankError: the bank cannot be written, or was made for another base model, embedder or chat template.
        ModelError: the model cannot be found, has no usable chat template, or does not have the layers that
            the settings ask for.
        TrainingError: a text that the model cannot say, or a loss that is not finite.
    """
    started = time.perf_counter()
    settings = settings or TrainSettings()
    manifest = BankReader(bank).snapshot().manifest if (bank / MANIFEST).exists() else None
    name = model or (manifest.base.name if manifest else DEFAULT_MODEL)
    path = resolve_model(name)
    chat = _chat_format(bank, manifest, path, settings.chat_template)
    settings = msgspec.structs.replace(settings, chat_template=chat.template)
    _refuse_unfit(chat, memories)
    base = BaseModelInfo(
        str(path) if Path(name).expanduser().is_dir() else name, fingerprint(path), chat.template
    )
    keys = load_embedder(embedder or (manifest.embedder.name if manifest else None))
    with BankWriter.open_or_create(bank, base, keys.info) as writer:
        writer.set_chat_template(chat.template)
        missing = [memory for memory in memories if not _is_there(writer.snapshot, memory, settings)]
        report = TrainReport(skipped=len(memories) - len(missing))
        if missing:
            progress(0, len(missing), None)
            adding = _Adding(writer, settings, keys, base, linear_shapes(path))
            with closing(fitter(path, settings).fit(missing)) as fits:
                for some in fits:
                    for one in adding.add([(missing[n], fit) for n, fit in some]):
                        report.trained.append(one)
                        progress(len(report.trained), len(missing), one)
        _link(writer, memories)
    report.seconds = time.perf_counter() - started
    return report


def _chat_format(bank: Path, manifest: Manifest | None, path: Path, template: str) -> ChatFormat:
    """In which memories are trained: as asked for, else as those of the bank, else as the model has it."""
    banks = manifest.base.chat_template if manifest else ""
    chat = load_chat_format(path, template or banks)
    # Memories that were added to the bank of a model without a template were trained who knows how.
    known = bool(banks or chat.tokenizer.chat_template)
    if manifest and manifest.memories and known and chat.template != banks:
        raise BankMismatchError(
            f"{bank}: its memories are trained in the chat template {template_name(banks)}, not in "
            f"{template_name(chat.template)}: leave --chat-template out, or choose another bank"
        )
    return chat


def _refuse_unfit(chat: ChatFormat, memories: Sequence[NewMemory]) -> None:
    for memory in memories:
        if why := unfit(chat, memory):
            raise TrainingError(f"{memory.namespace}/{memory_id(memory)} cannot be trained: {why}")


def _is_there(snapshot: BankSnapshot, memory: NewMemory, settings: TrainSettings) -> bool:
    """Whether the bank has `memory` in this state, trained with these settings."""
    key = (memory.namespace, memory_id(memory))
    entry = next((entry for entry in snapshot.manifest.memories if entry.key == key), None)
    return (
        entry is not None
        and entry.text_digest == text_digest(memory)
        and entry.training.get("digest") == settings.digest
    )


def _link(writer: BankWriter, memories: Sequence[NewMemory]) -> None:
    """Links that changed since a memory was trained: they are in no adapter."""
    there = {entry.key: entry.links for entry in writer.snapshot.manifest.memories}
    links = {(memory.namespace, memory_id(memory)): memory.links for memory in memories if memory.links}
    if changed := {key: new for key, new in links.items() if there[key] != new}:
        writer.link(changed)


@dataclass(frozen=True)
class _Adding:
    """All that it takes to add trained memories."""

    writer: BankWriter
    settings: TrainSettings
    keys: Embedder
    base: BaseModelInfo
    shapes: dict[str, tuple[int, int]]

    def add(self, fits: Sequence[tuple[NewMemory, Fit]]) -> list[Trained]:
        """Commit memories, all or none."""
        keys = self.keys.embed([memory.text for memory, _ in fits])
        staged = [self._stage(*one, key) for one, key in zip(fits, keys, strict=True)]
        entries = self.writer.add(staged, self.shapes)
        return [
            Trained(e.namespace, e.id, fit.steps, fit.loss, fit.recalled, fit.seconds, e.adapter_bytes)
            for e, (_, fit) in zip(entries, fits, strict=True)
        ]

    def _stage(self, memory: NewMemory, fit: Fit, key: Vectors) -> StagedMemory:
        folder = self.writer.stage()
        layers = sorted({layer_index(name) for name in fit.tensors})
        export(folder, fit.tensors, self.base.name, self.settings, layers)
        return StagedMemory(memory, folder, key, _record(self.settings, fit))


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
