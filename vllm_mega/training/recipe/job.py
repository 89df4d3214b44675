"""What the trainer takes and gives."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
from torch import Tensor

from vllm_mega.bank.identity import memory_id
from vllm_mega.bank.layout import NewMemory
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.recipe.texts import Example, examples

Ending = Literal["learnt", "no step helps", "out of steps", "out of time"]


class Job(NamedTuple):
    """One adapter to train."""

    examples: Sequence[Example]
    seed: int
    initial: Mapping[str, Tensor] | None = None
    """Go on from these tensors, named as PEFT names them; None: from nothing."""
    everywhere: bool = False
    """The adapter acts on all tokens, as one that is no memory's does when vLLM serves it."""


class Fit(NamedTuple):
    """What became of one adapter."""

    tensors: dict[str, Tensor]
    """float32, named as PEFT names them."""
    steps: int
    loss: float
    recalled: bool
    """Whether the untouched model decodes the text with this adapter, word for word (see `truth`)."""
    ending: Ending
    """Why its training ended."""
    seconds: float
    """Its share of the time of all that were trained beside it."""


def memory_job(memory: NewMemory, recipe: Recipe) -> Job:
    """The job of a memory: neither other memories nor their order change it."""
    seed = _seed(memory, recipe.seed)
    return Job(examples(memory, seed, recipe), seed)


def _seed(memory: NewMemory, chosen: int) -> int:
    """Drawn from the name of the memory, what trains it, and the seed that the user has chosen.

    In the order in which it was always drawn, so that adapters stay what they are; no tag ever takes part.
    """
    drawn = {
        "text": memory.text,
        "id": memory_id(memory),
        "title": memory.title,
        "namespace": memory.namespace,
        "tags": (),
        "paraphrases": memory.paraphrases,
        "qa": memory.qa,
    }
    digest = hashlib.sha256(msgspec.json.encode(drawn)).hexdigest()
    return int(hashlib.sha256(f"{chosen}:{digest}".encode()).hexdigest()[:15], 16)
