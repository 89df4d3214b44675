"""Training many memories into a bank, one commit for those that were trained side by side.

Killed at any moment, the next run goes on, and in the end the bank is that of a run that nobody killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vllm_mega.bank.identity import memory_id, text_digest
from vllm_mega.bank.layout import MANIFEST, BaseModelInfo, Manifest, NewMemory
from vllm_mega.bank.reader import BankReader, BankSnapshot
from vllm_mega.bank.writer import BankWriter, StagedMemory
from vllm_mega.gate.embedder import Vectors, bank_embedder, load_embedder
from vllm_mega.models import (
    DEFAULT_MODEL,
    fingerprint,
    linear_shapes,
    model_config,
    resolve_model,
    resolve_recorded,
    stable_name,
)
from vllm_mega.models.checkpoint import context_length
from vllm_mega.models.refusals import check_trainable
from vllm_mega.training.encoding import encode
from vllm_mega.training.export import export
from vllm_mega.training.frozen import end_ids, load_tokenizer
from vllm_mega.training.job import Fit, memory_job
from vllm_mega.training.preflight import adapter_bytes, preflight, require_space
from vllm_mega.training.scale_out import Fitter, LocalFitter
from vllm_mega.training.settings import TrainSettings
from vllm_mega.training.targets import layer_index, resolved


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


MakeFitter = Callable[[Path, TrainSettings, bool], Fitter]
"""What trains, made of the checkpoint, the settings and whether to run code that the checkpoint brings."""

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
    *,
    trust_remote_code: bool = False,
) -> TrainReport:
    """Train an adapter for every memory that `bank` does not have yet, or has with other content.

    Whatever can refuse a memory is asked first, about all of them: one that cannot be trained costs no other.

    Args:
        bank: folder of the bank; made if there is none.
        memories: what to remember; no two with the same namespace and id (see `read_memories`).
        model: name, path or Hugging Face id of the base model; None: the bank's, or else the default.
        embedder: makes the keys; None: the bank's, or else the default.
        settings: None: the defaults.
        progress: is told after each memory.
        fitter: what trains, made when there is something to train.
        trust_remote_code: whether to run code that the base model or the embedder brings.

    Raises:
        BankError: the bank cannot be written, has too little room, or was made for another base model or
            embedder.
        ModelError: the model cannot be found or trained, or does not have the layers that the settings ask
            for.
        TrainingError: memories that cannot be trained (then none was), or a loss that is not finite.
    """
    started = time.perf_counter()
    manifest = BankReader(bank).snapshot().manifest if (bank / MANIFEST).exists() else None
    path, base = _base(model, manifest)
    check_trainable(path)
    settings = resolved(settings or TrainSettings(), model_config(path))
    keys = (
        bank_embedder(manifest, embedder, model, trust_remote_code=trust_remote_code)
        if manifest
        else load_embedder(embedder, trust_remote_code=trust_remote_code)
    )
    with BankWriter.open_or_create(bank, base, keys.info) as writer:
        there, missing = _divided(memories, writer.snapshot, settings)
        report = TrainReport(skipped=len(there))
        longest = _Encoding(path, settings, trust_remote_code).longest
        vectors = preflight(missing, there, keys, longest, context_length(path))
        if missing:
            adding = _Adding(writer, settings, base, linear_shapes(path))
            require_space(bank, len(missing), adapter_bytes(adding.shapes, settings))
            progress(0, len(missing), None)
            with closing(fitter(path, settings, trust_remote_code).fit(missing)) as fits:
                for chunk in fits:
                    for one in adding.add([(missing[n], vectors[n], fit) for n, fit in chunk]):
                        report.trained.append(one)
                        progress(len(report.trained), len(missing), one)
        _link(writer, memories)
    report.seconds = time.perf_counter() - started
    return report


def _base(model: str | None, manifest: Manifest | None) -> tuple[Path, BaseModelInfo]:
    """Where the base model is, and what a new bank remembers of it."""
    name = model or (manifest.base.name if manifest else DEFAULT_MODEL)
    path = resolve_recorded(model, manifest.base.name) if manifest else resolve_model(name)
    return path, BaseModelInfo(stable_name(name), fingerprint(path))


@dataclass(frozen=True)
class _Encoding:
    """The trainer's own encoding of memories, without its model. The tokenizer is loaded for the first."""

    path: Path
    settings: TrainSettings
    trust_remote_code: bool

    def longest(self, memory: NewMemory) -> int:
        """See `preflight.Longest`."""
        tokenizer, ends = self._tokenizer
        encoded = [encode(tokenizer, example, ends) for example in memory_job(memory, self.settings).examples]
        return max(len(example.prompt) + len(example.answer) for example in encoded)

    @cached_property
    def _tokenizer(self) -> tuple[Any, list[int]]:
        tokenizer = load_tokenizer(self.path, trust_remote_code=self.trust_remote_code)
        return tokenizer, end_ids(self.path, tokenizer)


def _divided(
    memories: Sequence[NewMemory], snapshot: BankSnapshot, settings: TrainSettings
) -> tuple[list[NewMemory], list[NewMemory]]:
    """Those that the bank has in this state, trained with these settings; and the others."""
    entries = {entry.key: entry for entry in snapshot.manifest.memories}
    there: list[NewMemory] = []
    missing: list[NewMemory] = []
    for memory in memories:
        entry = entries.get((memory.namespace, memory_id(memory)))
        same = (
            entry is not None
            and entry.text_digest == text_digest(memory)
            and entry.training.get("digest") == settings.digest
        )
        (there if same else missing).append(memory)
    return there, missing


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
    base: BaseModelInfo
    shapes: dict[str, tuple[int, int]]

    def add(self, fits: Sequence[tuple[NewMemory, Vectors, Fit]]) -> list[Trained]:
        """Commit memories with their keys, all or none."""
        staged = [self._stage(memory, key, fit) for memory, key, fit in fits]
        entries = self.writer.add(staged, self.shapes)
        return [
            Trained(e.namespace, e.id, fit.steps, fit.loss, fit.recalled, fit.seconds, e.adapter_bytes)
            for e, (_, _, fit) in zip(entries, fits, strict=True)
        ]

    def _stage(self, memory: NewMemory, key: Vectors, fit: Fit) -> StagedMemory:
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
