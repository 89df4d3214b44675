"""Everything that can refuse a memory, asked of all of them before one is trained.

Training takes seconds a memory; what is found out afterwards has cost them, and those of its neighbours. So
all memories are looked at first, all problems are told together, and nothing is trained while there is one.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vllm_mega.bank.catalog.drafts import key_problem
from vllm_mega.bank.identity import memory_id
from vllm_mega.bank.layout import NewMemory, check_links
from vllm_mega.errors import BankError, ConfigError, MegaError, ModelError, TrainingError
from vllm_mega.gate.embedder import Embedder
from vllm_mega.gate.vectors import Vectors
from vllm_mega.training.recipe.encoding import too_long
from vllm_mega.training.recipe.settings import TrainSettings
from vllm_mega.training.recipe.targets import selected

Longest = Callable[[NewMemory], int]
"""Encodes all that a memory is trained on, as the trainer does; the tokens of the longest conversation."""

_BEGINNING = 40
_SLACK = 1.2
"""Files are larger than their tensors, and the old version of a memory goes after the new one is there."""


def preflight(
    memories: Sequence[NewMemory],
    there: Sequence[NewMemory],
    embedder: Embedder,
    longest: Longest,
    context: int,
) -> Vectors:
    """Make sure that nothing but its training stands between each memory and the bank.

    Args:
        memories: N of them, to be trained.
        there: those of the same run that the bank has already: of these, only links may be new.
        embedder: makes their keys.
        longest: see `Longest`.
        context: tokens that the model reads at most, here and in vLLM.

    Returns:
        The keys: float32 [N, D], unit rows, in the order of `memories`. They are those to store.

    Raises:
        TrainingError: memories that cannot be; all of them, by id, each with all of its reasons.
        ModelError: the model, not a memory, is what cannot be trained.
    """
    keys = np.asarray(embedder.embed([memory.text for memory in memories]), np.float32)
    times = Counter(_key(memory) for memory in (*memories, *there))
    problems = {
        _name(memory): [
            *_identity_problems(memory, times[_key(memory)]),
            *_length_problems(memory, longest, context),
            *_key_problems(key, embedder.info.dim),
        ]
        for memory, key in zip(memories, keys, strict=True)
    }
    problems |= {_name(memory): _identity_problems(memory, times[_key(memory)]) for memory in there}
    if bad := [f"{name}: {'; '.join(why)}" for name, why in problems.items() if why]:
        raise TrainingError(
            f"{len(bad)} of {len(problems)} memories cannot be trained, so none was. Mend them, or leave "
            "them out:\n  " + "\n  ".join(bad)
        )
    return keys


def adapter_bytes(shapes: Mapping[str, tuple[int, int]], settings: TrainSettings) -> int:
    """Bytes of the tensors of one adapter.

    Args:
        shapes: (O, I) by linear module of the base model.
        settings: which of them get an adapter, of what rank and type.
    """
    numbers = settings.rank * sum(sum(shapes[name]) for name in selected(shapes, settings))
    return numbers * (2 if settings.dtype == "bfloat16" else 4)


def require_space(bank: Path, memories: int, each: int) -> None:
    """Refuse to begin what the disk of `bank` has no room for.

    Args:
        bank: folder of the bank; it may be one that is still to be made.
        memories: how many will be added.
        each: bytes of an adapter.

    Raises:
        BankError: there is too little.
    """
    needed, free = int(memories * each * _SLACK), shutil.disk_usage(_existing(bank)).free
    if needed > free:
        raise BankError(
            f"{bank}: {memories} memories need about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free. "
            "Make room, or train fewer (--limit, --rank, --layers)"
        )


def _existing(folder: Path) -> Path:
    """`folder`, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _key(memory: NewMemory) -> tuple[str, str]:
    return (memory.namespace, memory_id(memory))


def _name(memory: NewMemory) -> str:
    """How a memory is found again by who wrote it."""
    name = "/".join(_key(memory))
    beginning = " ".join(memory.text.split())[:_BEGINNING]
    return name if memory.id else f'{name} ("{beginning}...")'


def _identity_problems(memory: NewMemory, times: int) -> list[str]:
    problems = [f"given {times} times: give each one once"] if times > 1 else []
    try:
        check_links(memory.links, memory_id(memory))
    except (ConfigError, ValueError) as error:
        problems.append(str(error))
    return problems


def _length_problems(memory: NewMemory, longest: Longest, context: int) -> list[str]:
    try:
        tokens = longest(memory)
    except ModelError:
        raise
    except MegaError as error:
        return [str(error)]
    problem = too_long(tokens, context)
    return [problem] if problem else []


def _key_problems(key: Vectors, dim: int) -> list[str]:
    problem = key_problem(key, dim)
    return [f"its key from the embedder: {problem} (--embedder names another)"] if problem else []
