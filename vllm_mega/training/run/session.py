"""Remembering memories and training them: stored first, pending, then trained through the catalog's jobs.

Killed at any moment, the next run goes on, and in the end the bank is that of a run that nobody killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import msgspec

from vllm_mega.bank.catalog import changes, jobs
from vllm_mega.bank.catalog.amending import amend
from vllm_mega.bank.catalog.catalog import Catalog, open_catalog
from vllm_mega.bank.catalog.drafts import key_bytes
from vllm_mega.bank.catalog.known import Known, known, list_jobs
from vllm_mega.bank.catalog.records import BankSettings, Draft, MemoryName, Source
from vllm_mega.bank.catalog.store import sweep
from vllm_mega.bank.identity import text_digest
from vllm_mega.bank.layout import NewMemory
from vllm_mega.bank.opening import open_or_create
from vllm_mega.errors import TrainingError
from vllm_mega.gate.vectors import Vectors
from vllm_mega.training.recipe.settings import TrainSettings
from vllm_mega.training.run.changes import Why, fits, name_of, why_waiting
from vllm_mega.training.run.crew import Crew, Task, here
from vllm_mega.training.run.leases import owner
from vllm_mega.training.run.outcome import Failed, Trained, TrainReport
from vllm_mega.training.run.plan import Plan, prepare, prepare_waiting

Part = TypeVar("Part")
Progress = Callable[[int, int, Trained | None], None]
"""Called with (memories done, memories to train, the last one): once before the first, then after each."""
Stored = Callable[[Catalog], None]
_AT_A_TIME = 200
"""Memories that one change stores."""


def train(  # noqa: PLR0913
    bank: Path,
    memories: Sequence[NewMemory],
    model: str | None = None,
    embedder: str | None = None,
    settings: TrainSettings | None = None,
    progress: Progress = lambda _done, _total, _last: None,
    crew: Crew = here,
    *,
    catalog: str | None = None,
    sources: Mapping[MemoryName, Source] = MappingProxyType({}),
    stored: Stored = lambda _catalog: None,
    trust_remote_code: bool = False,
) -> TrainReport:
    """Train an adapter for every memory that `bank` does not have yet, or has of another text or recipe.

    Tags and links of the others become those of `memories`, and train nothing.

    Whatever can refuse a memory is asked first, about all of them. Then all are stored, and trained while
    others may use and change the bank. One whose training fails costs no other; it is tried again by the
    next run, and given up after three.

    Args:
        bank: folder of the bank; made if there is none.
        memories: what to remember; no two with the same namespace and id (see `read_memories`).
        model: name, path or Hugging Face id of the base model; None: the bank's, or else the default.
        embedder: makes the keys; None: the bank's, or else the default.
        settings: None: the defaults.
        progress: is told after each memory.
        crew: who trains, asked when there is something to train.
        catalog: URL of the bank's catalog, if it is not in the folder.
        sources: where memories come from; of those that are not in it nothing is known.
        stored: is called once all memories are in the bank, before any is trained.
        trust_remote_code: whether to run code that the base model or the embedder brings.

    Raises:
        BankError: the bank cannot be written, has too little room, or was made for another base model,
            embedder or chat template.
        ModelError: the model cannot be found or trained, has no usable chat template, or does not have the
            layers that the settings ask for.
        TrainingError: memories that cannot be trained (then none was stored), or not one whose training
            succeeded.
    """
    started = time.perf_counter()
    plan = prepare(
        bank, memories, model, embedder, settings, catalog=catalog, trust_remote_code=trust_remote_code
    )
    with open_or_create(bank, BankSettings(plan.base, plan.embedder), catalog) as opened:
        why = _store(opened, plan, sources, owner())
        stored(opened)
        task = Task(opened.root, plan.path, plan.base.name, plan.recipe, catalog, trust_remote_code)
        report = _run(opened, task, why, progress, crew)
    report.skipped = len(memories) - len(report.trained) - len(report.failed)
    report.seconds = time.perf_counter() - started
    return report


def train_waiting(
    bank: Path,
    model: str | None = None,
    settings: TrainSettings | None = None,
    progress: Progress = lambda _done, _total, _last: None,
    crew: Crew = here,
    *,
    catalog: str | None = None,
    trust_remote_code: bool = False,
) -> TrainReport:
    """Train all memories of `bank` that wait for an adapter, whoever has stored them, the oldest first.

    Args:
        bank: folder of the bank.
        model: see `train`; so are the others.
        settings: None: the defaults.
        progress: is told after each memory.
        crew: who trains.
        catalog: URL of the bank's catalog, if it is not in the folder.
        trust_remote_code: whether to run code that the base model brings.

    Raises:
        BankNotFoundError: no bank there.
        BankError, ModelError: as `train`.
        TrainingError: not one whose training succeeded.
    """
    started = time.perf_counter()
    with open_catalog(bank, catalog) as opened:
        ground = prepare_waiting(bank, model, settings, catalog=catalog, trust_remote_code=trust_remote_code)
        changes.set_chat_template(opened, ground.recipe.chat_template, owner())
        wanted = [MemoryName(job.namespace, job.id) for job in list_jobs(opened) if job.state != "failed"]
        stored = _trainable(opened, wanted)
        why = {name: why_waiting(stored[name]) for name in wanted if name in stored}
        path, base, recipe, _ = ground
        task = Task(opened.root, path, base.name, recipe, catalog, trust_remote_code)
        report = _run(opened, task, why, progress, crew)
    report.skipped = len(why) - len(report.trained) - len(report.failed)
    report.seconds = time.perf_counter() - started
    return report


def _run(
    catalog: Catalog, task: Task, why: dict[MemoryName, Why], progress: Progress, crew: Crew
) -> TrainReport:
    """Train these memories, that wait in the catalog."""
    report = TrainReport()
    if why:
        progress(0, len(why), None)
        for outcome in _outcomes(catalog, task, why, crew):
            report.note(outcome)
            progress(len(report.trained), len(why), outcome if isinstance(outcome, Trained) else None)
    if report.failed and not report.trained:
        raise TrainingError("\n  ".join(["no memory could be trained:", *map(str, report.failed)]))
    return report


def _store(
    catalog: Catalog, plan: Plan, sources: Mapping[MemoryName, Source], who: str
) -> dict[MemoryName, Why]:
    """Everything that the run brings, in the bank; those that wait for a trainer now, and why, in order."""
    sweep(catalog)
    changes.set_chat_template(catalog, plan.recipe.chat_template, who)
    for some in _parts(_amended(catalog, plan.there)):
        amend(catalog, some, who)
    for drafts in _parts([_draft(*each, sources) for each in zip(plan.missing, plan.keys, strict=True)]):
        changes.put(catalog, drafts, who)
    why = dict(zip(map(name_of, plan.missing), plan.why, strict=True))
    stored = _trainable(catalog, list(why))
    jobs.request_training(
        catalog, [name for name, memory in stored.items() if _asks(memory, plan.recipe.digest)], who
    )
    return {name: why[name] for name in why if name in stored and not fits(stored[name], plan.recipe.digest)}


def _trainable(catalog: Catalog, names: Sequence[MemoryName]) -> dict[MemoryName, Known]:
    """Those of `names` that the bank has, and that are not retired."""
    return {name: memory for name, memory in known(catalog, names).items() if not memory.retired}


def _amended(catalog: Catalog, memories: Sequence[NewMemory]) -> list[NewMemory]:
    """Those whose tags, links or expiration may be other ones now."""
    stored = known(catalog, list(map(name_of, memories)))
    there = [(memory, stored[name_of(memory)]) for memory in memories if name_of(memory) in stored]
    return [
        _named(memory)
        for memory, before in there
        if memory.links or memory.expires_at or memory.tags != before.tags
    ]


def _asks(memory: Known, recipe: str) -> bool:
    """Whether a job must be asked for: the memory has an adapter by another recipe, or was given up."""
    return memory.job not in ("waiting", "leased") and not fits(memory, recipe)


def _outcomes(
    catalog: Catalog, task: Task, why: dict[MemoryName, Why], crew: Crew
) -> Iterator[Trained | Failed]:
    """What became of each memory: failures at last, when no other worker can mend them."""
    left, failed = dict(why), dict[MemoryName, Failed]()
    with closing(crew(task, list(why))) as lots:
        for outcome in chain.from_iterable(lots):
            name = MemoryName(outcome.namespace, outcome.id)
            if isinstance(outcome, Failed):
                failed[name] = outcome
            else:
                failed.pop(name, None)
                yield replace(outcome, why=left.pop(name, "new"))
    stored = known(catalog, list(left))
    killed = {name: Failed(*name, memory.reason) for name, memory in stored.items() if memory.job == "failed"}
    yield from (killed | failed).values()


def _draft(memory: NewMemory, key: Vectors, sources: Mapping[MemoryName, Source]) -> Draft:
    named = _named(memory)
    return Draft(named, text_digest(named), key_bytes(key), sources.get(name_of(named)))


def _named(memory: NewMemory) -> NewMemory:
    """With its id."""
    return msgspec.structs.replace(memory, id=name_of(memory).id)


def _parts(items: Sequence[Part]) -> Iterator[Sequence[Part]]:
    return (items[start : start + _AT_A_TIME] for start in range(0, len(items), _AT_A_TIME))
