"""Training many memories into a bank, one commit for those that were trained side by side.

Killed at any moment, the next run goes on, and in the end the bank is that of a run that nobody killed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vllm_mega.bank.identity import memory_id, text_digest
from vllm_mega.bank.layout import (
    MANIFEST,
    BaseModelInfo,
    EmbedderInfo,
    Manifest,
    MemoryEntry,
    NewMemory,
)
from vllm_mega.bank.reader import BankReader, check_match
from vllm_mega.bank.writer import BankWriter, StagedMemory
from vllm_mega.config import GateSettings
from vllm_mega.errors import AdapterError, BankMismatchError, TrainingError
from vllm_mega.gate.advice import advice, crowded
from vllm_mega.gate.embedder import bank_embedder, load_embedder
from vllm_mega.gate.vectors import Vectors
from vllm_mega.isolation import isolated
from vllm_mega.models import (
    DEFAULT_MODEL,
    fingerprint,
    linear_shapes,
    model_config,
    resolve_model,
    resolve_recorded,
    stable_name,
)
from vllm_mega.models.chat_format import ChatFormat, load_chat_format
from vllm_mega.models.chat_template import template_name
from vllm_mega.models.checkpoint import context_length
from vllm_mega.models.refusals import check_trainable
from vllm_mega.training.encoding import encode_job, unfit
from vllm_mega.training.export import export
from vllm_mega.training.job import Ending, Fit, memory_job
from vllm_mega.training.preflight import adapter_bytes, preflight, require_space
from vllm_mega.training.scale_out import Fitter, LocalFitter
from vllm_mega.training.settings import TrainSettings
from vllm_mega.training.targets import layer_index, resolved

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """One memory that is in the bank now."""

    namespace: str
    id: str
    steps: int
    loss: float
    recalled: bool
    """Whether the untouched model recites the text with the exported adapter, word for word."""
    ending: Ending
    """Why its training ended."""
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Failed:
    """One memory that was to be trained, and is not in the bank."""

    namespace: str
    id: str
    reason: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.id}: {self.reason}"


@dataclass
class TrainReport:
    """What a run has done."""

    trained: list[Trained] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    skipped: int = 0
    """Memories that the bank had already, trained on the same text with the same settings."""
    seconds: float = 0.0

    def note(self, one: Trained | Failed) -> None:
        """Add what became of a memory."""
        if isinstance(one, Trained):
            self.trained.append(one)
        else:
            self.failed.append(one)


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

    Whatever can refuse a memory is asked first, about all of them. One whose training fails nevertheless is
    left out, and costs no other.

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
        BankError: the bank cannot be written, has too little room, or was made for another base model,
            embedder or chat template.
        ModelError: the model cannot be found or trained, has no usable chat template, or does not have the
            layers that the settings ask for.
        TrainingError: memories that cannot be trained (then none was), or not one whose training succeeded.
    """
    started = time.perf_counter()
    plan = prepare(bank, memories, model, embedder, settings, trust_remote_code=trust_remote_code)
    missing, settings = plan.missing, plan.settings
    report = TrainReport(skipped=len(plan.there))
    with BankWriter.open_or_create(bank, plan.base, plan.embedder) as writer:
        writer.set_chat_template(settings.chat_template)
        if missing:
            adding = _Adding(writer, settings, plan.base, plan.shapes)
            progress(0, len(missing), None)
            with closing(fitter(plan.path, settings, trust_remote_code).fit(missing)) as fits:
                for chunk in fits:
                    for one in adding.add([(missing[n], plan.keys[n], fit) for n, fit in chunk]):
                        report.note(one)
                        progress(len(report.trained), len(missing), one if isinstance(one, Trained) else None)
        if report.failed and not report.trained:
            raise TrainingError("\n  ".join(["no memory could be trained:", *map(str, report.failed)]))
        _link(writer, memories)
    report.seconds = time.perf_counter() - started
    return report


class Plan(NamedTuple):
    """What a run will do, when everything that can refuse has been asked."""

    path: Path
    """Of the base model."""
    base: BaseModelInfo
    embedder: EmbedderInfo
    settings: TrainSettings
    """Resolved, with the chat template that is used."""
    chat: ChatFormat
    shapes: dict[str, tuple[int, int]]
    """(O, I) by linear module of the base model."""
    missing: list[NewMemory]
    """To be trained."""
    there: list[NewMemory]
    """In the bank already, trained on the same text with the same settings."""
    keys: Vectors
    """Of `missing`, in order."""


def prepare(
    bank: Path,
    memories: Sequence[NewMemory],
    model: str | None = None,
    embedder: str | None = None,
    settings: TrainSettings | None = None,
    *,
    trust_remote_code: bool = False,
) -> Plan:
    """All that `train` does before training, with its arguments and errors. Logs advice; writes nothing."""
    snapshot = BankReader(bank).snapshot() if (bank / MANIFEST).exists() else None
    manifest = snapshot.manifest if snapshot else None
    path = _model_path(model, manifest)
    check_trainable(path)
    settings = resolved(settings or TrainSettings(), model_config(path))
    chat = _chat_format(bank, manifest, path, settings.chat_template, trust_remote_code=trust_remote_code)
    settings = msgspec.structs.replace(settings, chat_template=chat.template)
    name = model or (manifest.base.name if manifest else DEFAULT_MODEL)
    base = BaseModelInfo(stable_name(name), fingerprint(path), chat.template)
    keys = (
        bank_embedder(manifest, embedder, model, trust_remote_code=trust_remote_code)
        if manifest
        else load_embedder(embedder, trust_remote_code=trust_remote_code)
    )
    if manifest:
        check_match(bank, manifest, base.fingerprint, keys.info)
    there, missing = _divided(memories, manifest.memories if manifest else (), settings)
    longest = partial(_longest, chat, settings)
    vectors = preflight(missing, there, keys, longest, context_length(path))
    shapes = linear_shapes(path)
    if missing:
        for line in [
            *filter(None, [crowded(keys, GateSettings())]),
            *advice(missing, vectors, keys, snapshot),
        ]:
            _LOG.warning("warning: %s", line)
        require_space(bank, len(missing), adapter_bytes(shapes, settings))
    return Plan(path, base, keys.info, settings, chat, shapes, missing, there, vectors)


def _model_path(model: str | None, manifest: Manifest | None) -> Path:
    """Where the base model is."""
    if manifest:
        return resolve_recorded(model, manifest.base.name)
    return resolve_model(model or DEFAULT_MODEL)


def _chat_format(
    bank: Path, manifest: Manifest | None, path: Path, template: str, *, trust_remote_code: bool
) -> ChatFormat:
    """In which memories are trained: as asked for, else as those of the bank, else as the model has it."""
    banks = manifest.base.chat_template if manifest else ""
    chat = load_chat_format(path, template or banks, trust_remote_code=trust_remote_code)
    # Memories that were added to the bank of a model without a template were trained who knows how.
    known = bool(banks or chat.tokenizer.chat_template)
    if manifest and manifest.memories and known and chat.template != banks:
        raise BankMismatchError(
            f"{bank}: its memories are trained in the chat template {template_name(banks)}, not in "
            f"{template_name(chat.template)}: leave --chat-template out, or choose another bank"
        )
    return chat


def _longest(chat: ChatFormat, settings: TrainSettings, memory: NewMemory) -> int:
    """See `preflight.Longest`: the trainer's own encoding, without its model."""
    if why := unfit(chat, memory):
        raise TrainingError(why)
    encoded = encode_job(chat, memory_job(memory, settings))
    return max(len(example.prompt) + len(example.answer) for example in encoded)


def _divided(
    memories: Sequence[NewMemory], entries: Sequence[MemoryEntry], settings: TrainSettings
) -> tuple[list[NewMemory], list[NewMemory]]:
    """Those that a bank with `entries` has in this state, trained with these settings; and the others.

    One that ran out of time is among the others: a larger budget, or a quieter machine, may do.
    """
    known = {entry.key: entry for entry in entries}
    there: list[NewMemory] = []
    missing: list[NewMemory] = []
    for memory in memories:
        entry = known.get((memory.namespace, memory_id(memory)))
        same = (
            entry is not None
            and entry.text_digest == text_digest(memory)
            and entry.training.get("digest") == settings.digest
            and entry.training.get("ending") != "out of time"
        )
        (there if same else missing).append(memory)
    return there, missing


def _link(writer: BankWriter, memories: Sequence[NewMemory]) -> None:
    """Links that changed since a memory was trained: they are in no adapter."""
    there = {entry.key: entry.links for entry in writer.snapshot.manifest.memories}
    links = {(memory.namespace, memory_id(memory)): memory.links for memory in memories if memory.links}
    if changed := {key: new for key, new in links.items() if there.get(key, new) != new}:
        writer.link(changed)


@dataclass(frozen=True)
class _Adding:
    """All that it takes to add trained memories."""

    writer: BankWriter
    settings: TrainSettings
    base: BaseModelInfo
    shapes: dict[str, tuple[int, int]]

    def add(self, fits: Sequence[tuple[NewMemory, Vectors, Fit | TrainingError]]) -> list[Trained | Failed]:
        """Commit memories with their keys; not those whose training failed or gave a bad adapter."""
        good = [(memory, key, fit) for memory, key, fit in fits if not isinstance(fit, TrainingError)]
        added = iter(isolated(self._commit, good, AdapterError) if good else ())
        found = [fit if isinstance(fit, TrainingError) else next(added) for _, _, fit in fits]
        return [
            one if isinstance(one, Trained) else Failed(memory.namespace, memory_id(memory), str(one))
            for (memory, _, _), one in zip(fits, found, strict=True)
        ]

    def _commit(self, fits: Sequence[tuple[NewMemory, Vectors, Fit]]) -> list[Trained]:
        """All or none."""
        staged = [self._stage(memory, key, fit) for memory, key, fit in fits]
        entries = self.writer.add(staged, self.shapes)
        return [
            Trained(
                e.namespace, e.id, fit.steps, fit.loss, fit.recalled, fit.ending, fit.seconds, e.adapter_bytes
            )
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
        "ending": fit.ending,
        "seconds": round(fit.seconds, 2),
    }
