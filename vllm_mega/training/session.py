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

from vllm_mega.bank.identity import memory_id
from vllm_mega.bank.layout import (
    MANIFEST,
    BaseModelInfo,
    EmbedderInfo,
    Manifest,
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
from vllm_mega.training.changes import Why, amend, divided
from vllm_mega.training.encoding import encode_job, unfit
from vllm_mega.training.export import export
from vllm_mega.training.job import Ending, Fit, memory_job
from vllm_mega.training.preflight import adapter_bytes, preflight, require_space
from vllm_mega.training.recipe import Recipe
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
    why: Why
    """Why it was trained."""


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
    """Memories that the bank had already, trained on the same text by the same recipe."""
    seconds: float = 0.0

    def note(self, one: Trained | Failed) -> None:
        """Add what became of a memory."""
        if isinstance(one, Trained):
            self.trained.append(one)
        else:
            self.failed.append(one)


MakeFitter = Callable[[Path, Recipe, bool], Fitter]
"""What trains, made of the checkpoint, the recipe and whether to run code that the checkpoint brings."""

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
    """Train an adapter for every memory that `bank` does not have yet, or has of another text or recipe.

    Tags and links of the others become those of `memories`, and train nothing.

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
    missing, recipe = plan.missing, plan.recipe
    report = TrainReport(skipped=len(plan.there))
    with BankWriter.open_or_create(bank, plan.base, plan.embedder) as writer:
        writer.set_chat_template(recipe.chat_template)
        amend(writer, plan.there)
        if missing:
            adding = _Adding(writer, recipe, plan.base, plan.shapes)
            progress(0, len(missing), None)
            with closing(fitter(plan.path, recipe, trust_remote_code).fit(missing)) as fits:
                for chunk in fits:
                    for one in adding.add(
                        [_Done(missing[n], plan.why[n], plan.keys[n], fit) for n, fit in chunk]
                    ):
                        report.note(one)
                        progress(len(report.trained), len(missing), one if isinstance(one, Trained) else None)
        if report.failed and not report.trained:
            raise TrainingError("\n  ".join(["no memory could be trained:", *map(str, report.failed)]))
    report.seconds = time.perf_counter() - started
    return report


class Plan(NamedTuple):
    """What a run will do, when everything that can refuse has been asked."""

    path: Path
    """Of the base model."""
    base: BaseModelInfo
    embedder: EmbedderInfo
    recipe: Recipe
    """Resolved, with the chat template that is used."""
    chat: ChatFormat
    shapes: dict[str, tuple[int, int]]
    """(O, I) by linear module of the base model."""
    missing: list[NewMemory]
    """To be trained ..."""
    why: list[Why]
    """... and why: of each, in order."""
    there: list[NewMemory]
    """In the bank already, trained on the same text by the same recipe."""
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
    recipe = resolved(Recipe.of(settings or TrainSettings()), model_config(path))
    chat = _chat_format(bank, manifest, path, recipe.chat_template, trust_remote_code=trust_remote_code)
    recipe = msgspec.structs.replace(recipe, chat_template=chat.template)
    name = model or (manifest.base.name if manifest else DEFAULT_MODEL)
    base = BaseModelInfo(stable_name(name), fingerprint(path), chat.template)
    keys = (
        bank_embedder(manifest, embedder, model, trust_remote_code=trust_remote_code)
        if manifest
        else load_embedder(embedder, trust_remote_code=trust_remote_code)
    )
    if manifest:
        check_match(bank, manifest, base.fingerprint, keys.info)
    missing, why, there = divided(memories, manifest.memories if manifest else (), recipe)
    longest = partial(_longest, chat, recipe)
    vectors = preflight(missing, there, keys, longest, context_length(path))
    shapes = linear_shapes(path)
    if missing:
        for line in [
            *filter(None, [crowded(keys, GateSettings())]),
            *advice(missing, vectors, keys, snapshot),
        ]:
            _LOG.warning("warning: %s", line)
        require_space(bank, len(missing), adapter_bytes(shapes, recipe))
    return Plan(path, base, keys.info, recipe, chat, shapes, missing, why, there, vectors)


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


def _longest(chat: ChatFormat, recipe: Recipe, memory: NewMemory) -> int:
    """See `preflight.Longest`: the trainer's own encoding, without its model."""
    if why := unfit(chat, memory):
        raise TrainingError(why)
    encoded = encode_job(chat, memory_job(memory, recipe), recipe.encoding)
    return max(len(example.prompt) + len(example.answer) for example in encoded)


class _Done(NamedTuple):
    """A memory whose training has ended."""

    memory: NewMemory
    why: Why
    key: Vectors
    """[D]"""
    fit: Fit | TrainingError


@dataclass(frozen=True)
class _Adding:
    """All that it takes to add trained memories."""

    writer: BankWriter
    recipe: Recipe
    base: BaseModelInfo
    shapes: dict[str, tuple[int, int]]

    def add(self, done: Sequence[_Done]) -> list[Trained | Failed]:
        """Commit memories with their keys; not those whose training failed or gave a bad adapter."""
        good = [one for one in done if not isinstance(one.fit, TrainingError)]
        added = iter(isolated(self._commit, good, AdapterError) if good else ())
        found = [one.fit if isinstance(one.fit, TrainingError) else next(added) for one in done]
        return [
            result
            if isinstance(result, Trained)
            else Failed(one.memory.namespace, memory_id(one.memory), str(result))
            for one, result in zip(done, found, strict=True)
        ]

    def _commit(self, done: Sequence[_Done]) -> list[Trained]:
        """All or none."""
        fits = [one.fit for one in done if not isinstance(one.fit, TrainingError)]
        staged = [self._stage(one, fit) for one, fit in zip(done, fits, strict=True)]
        entries = self.writer.add(staged, self.shapes)
        return [
            Trained(
                namespace=entry.namespace,
                id=entry.id,
                steps=fit.steps,
                loss=fit.loss,
                recalled=fit.recalled,
                ending=fit.ending,
                seconds=fit.seconds,
                bytes=entry.adapter_bytes,
                why=one.why,
            )
            for entry, one, fit in zip(entries, done, fits, strict=True)
        ]

    def _stage(self, one: _Done, fit: Fit) -> StagedMemory:
        folder = self.writer.stage()
        layers = sorted({layer_index(name) for name in fit.tensors})
        export(folder, fit.tensors, self.base.name, self.recipe, layers)
        return StagedMemory(one.memory, folder, one.key, _record(self.recipe, fit), self.recipe.digest)


def _record(recipe: Recipe, fit: Fit) -> dict[str, Any]:
    """What the bank notes about a training."""
    return {
        "rank": recipe.rank,
        "seed": recipe.seed,
        "steps": fit.steps,
        "loss": round(fit.loss, 4),
        "recalled": fit.recalled,
        "ending": fit.ending,
        "seconds": round(fit.seconds, 2),
    }
