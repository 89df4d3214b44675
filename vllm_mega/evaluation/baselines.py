"""What one LoRA for all memories can do: trained on one memory after the other, or on all at once.

`sequential_lora` has the shape of one memory's adapter and the same recipe, as in the paper: each memory is
trained until it is known, from where the one before has left the tensors. `joint_lora` sees all examples of
all memories at once; it gets their ranks together (64 at most) and their steps together, so that neither
room nor reading time is what it lacks.

An adapter appears by a rename, with a record of what it was made of, so a run that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import msgspec
import torch
from safetensors.torch import load_file
from torch import Tensor

from vllm_mega.bank import files
from vllm_mega.bank.identity import memory_id, text_digest
from vllm_mega.bank.layout import ADAPTER_WEIGHTS, BaseModelInfo, NewMemory
from vllm_mega.evaluation.forgetting import counts
from vllm_mega.evaluation.model import JOINT, SEQUENTIAL, Baselines
from vllm_mega.evaluation.report import Baseline
from vllm_mega.output import write_json
from vllm_mega.prompts import about_prompt, user
from vllm_mega.training.recipe.job import Fit, Job, memory_job
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.texts import subject
from vllm_mega.training.run.export import export

RECORD = "baseline.json"
MAX_RANK = 64
MAX_STEPS = 10_000
JOINT_STEPS = 28
"""For each memory: some more than memories with adapters of their own take."""


class Fitter(Protocol):
    """What of the trainer is used."""

    @property
    def layers(self) -> Sequence[int]:
        """That get adapters."""
        ...

    def fit(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Fit]]:
        """Train one adapter for each of `jobs`."""
        ...


class _Record(msgspec.Struct, frozen=True):
    """What stands beside an adapter."""

    digest: str
    """Of base model, recipe and memories in their order."""
    steps: int = 0
    """Altogether, those of the memories before included."""
    seconds: float = 0.0
    loss: float = 0.0
    """Of the last step."""

    def after(self, fit: Fit, digest: str) -> _Record:
        """That of the adapter when it has been trained once more."""
        return _Record(digest, self.steps + fit.steps, self.seconds + fit.seconds, fit.loss)


@dataclass(frozen=True)
class Trainable:
    """What to train, and where it goes."""

    folder: Path
    """Made if it is not there."""
    memories: Sequence[NewMemory]
    base: BaseModelInfo
    recipe: Recipe
    """Of the memories themselves."""
    make_trainer: Callable[[Recipe], Fitter]
    """Called only where there is something to train: it loads a model."""
    progress: Callable[[int, int], None] = lambda _done, _total: None
    """Told of memories learnt, and how many there are; the joint adapter counts as all of them."""


def joint_recipe(recipe: Recipe, memories: int) -> Recipe:
    """Those of one adapter for `memories` memories whose own adapters have `recipe`; see above.

    Adam moves every one of the ranks by the learning rate, so with more of them it is smaller, by the square
    root of their number.
    """
    rank = max(recipe.rank, min(MAX_RANK, recipe.rank * memories))
    return msgspec.structs.replace(
        recipe,
        rank=rank,
        alpha=None if recipe.alpha is None else recipe.alpha * rank / recipe.rank,
        learning_rate=recipe.learning_rate * math.sqrt(recipe.rank / rank),
        max_steps=min(MAX_STEPS, min(recipe.max_steps, JOINT_STEPS) * memories),
    )


def train_baselines(work: Trainable) -> Baselines:
    """Train what is not there yet."""
    work = replace(work, recipe=msgspec.structs.replace(work.recipe, jobs=1))  # room for one adapter
    work.folder.mkdir(parents=True, exist_ok=True)
    total = 2 * len(work.memories)
    checkpoints, sequential = _sequential(work, total)
    joint, cost = _joint(work, total)
    return Baselines(checkpoints, joint, {SEQUENTIAL: sequential, JOINT: cost})


def _sequential(work: Trainable, total: int) -> tuple[dict[int, Path], Baseline]:
    """One memory after the other; checkpoints by the number of others."""
    digests = _chain(work.base, work.recipe, work.memories)
    paths = {k + 1: work.folder / f"sequential-{k + 1}" for k in counts(len(work.memories))}
    there = [*itertools.takewhile(lambda n: _record(paths[n], digests[n]) is not None, paths)]
    start = there[-1] if there else 0
    record = _record(paths[start], digests[start]) if start else None
    tensors = _rounded(load_file(paths[start] / ADAPTER_WEIGHTS), work.recipe) if start else None
    work.progress(start, total)
    trainer = work.make_trainer(work.recipe) if start < len(work.memories) else None
    for n in range(start + 1, len(work.memories) + 1):
        assert trainer is not None
        ((_, fit),) = trainer.fit([shared_job(work.memories[n - 1 : n], work.recipe, tensors)])
        # As they would come back from disk, so that a run that goes on gives the same as one in one go.
        tensors = _rounded(fit.tensors, work.recipe)
        record = (record or _Record(digests[0])).after(fit, digests[n])
        if n in paths:
            _save(paths[n], tensors, record, work, work.recipe, trainer.layers)
        work.progress(n, total)
    assert record is not None
    return {n - 1: path for n, path in paths.items()}, _cost(paths[max(paths)], work.recipe, record)


def _joint(work: Trainable, total: int) -> tuple[Path, Baseline]:
    """All memories at once."""
    recipe = joint_recipe(work.recipe, len(work.memories))
    path, digest = work.folder / "joint", _chain(work.base, recipe, work.memories)[-1]
    record = _record(path, digest)
    if record is None:
        trainer = work.make_trainer(recipe)
        ((_, fit),) = trainer.fit([shared_job(work.memories, recipe)])
        record = _Record(digest).after(fit, digest)
        _save(path, fit.tensors, record, work, recipe, trainer.layers)
    work.progress(total, total)
    return path, _cost(path, recipe, record)


def shared_job(
    memories: Sequence[NewMemory], recipe: Recipe, initial: Mapping[str, Tensor] | None = None
) -> Job:
    """What an adapter learns that holds more than one memory: it is asked by name, for it must know which."""
    pool = []
    for memory in memories:
        by_name = user(about_prompt(subject(memory, recipe)))
        pool += [
            example._replace(kind="recall") if example.messages == by_name else example
            for example in memory_job(memory, recipe).examples
            if example.kind != "recall"
        ]
    return Job(pool, recipe.seed, initial, everywhere=True)


def _chain(base: BaseModelInfo, recipe: Recipe, memories: Iterable[NewMemory]) -> list[str]:
    """[n] is the digest of all that decides an adapter that has learnt the first n memories."""
    links = [hashlib.sha256(f"{base.fingerprint} {recipe.digest}".encode()).hexdigest()]
    for memory in memories:
        what = f"{links[-1]} {memory.namespace}/{memory_id(memory)} {text_digest(memory)}"
        links.append(hashlib.sha256(what.encode()).hexdigest())
    return links


def _rounded(tensors: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """float32, with values that the adapter's type on disk has."""
    dtype: torch.dtype = getattr(torch, recipe.dtype)
    return {name: tensor.to(dtype).float() for name, tensor in tensors.items()}


def _record(path: Path, digest: str) -> _Record | None:
    """What stands beside the adapter at `path`, if it is whole and of this digest."""
    try:
        record = msgspec.json.decode((path / RECORD).read_bytes(), type=_Record)
    except (OSError, msgspec.MsgspecError):
        return None
    return record if record.digest == digest else None


def _save(
    path: Path,
    tensors: Mapping[str, Tensor],
    record: _Record,
    work: Trainable,
    recipe: Recipe,
    layers: Sequence[int],
) -> None:
    """Put an adapter at `path`, whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=path.parent) as staging:
        stage = Path(staging, path.name)
        stage.mkdir()
        export(stage, tensors, work.base.name, recipe, layers)
        write_json(stage / RECORD, msgspec.to_builtins(record))
        files.remove(path)
        stage.rename(path)


def _cost(path: Path, recipe: Recipe, record: _Record) -> Baseline:
    size = (path / ADAPTER_WEIGHTS).stat().st_size
    return Baseline(recipe.rank, record.steps, round(record.loss, 4), round(record.seconds, 2), size)
