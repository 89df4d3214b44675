"""What the trainer and the engine compute, against PEFT on the untouched model in transformers; float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests import banks
from tests.small_tokenizer import WORDS
from vllm_mega.bank.layout import BaseModelInfo, NewMemory
from vllm_mega.gate.embedder import Embedder
from vllm_mega.models import fingerprint, linear_shapes
from vllm_mega.training.compute.packing import leads, pack, pool
from vllm_mega.training.recipe.encoding import Encoded
from vllm_mega.training.recipe.job import memory_job
from vllm_mega.training.recipe.recipe import Recipe
from vllm_mega.training.run.export import export
from vllm_mega.training.run.trainer import Trainer

SETTINGS = Recipe(max_steps=3, jobs=1, dtype="float32")
"""Of modules and layers nothing is said: they follow the architecture."""
MEMORY = NewMemory(
    text="The red kettle of Ommen sings at dawn, and nine geese count its copper rivets until noon.",
    id="kettle",
    title="The red kettle",
)
TRAINED, SERVED = 1e-4, 2e-3
"""Errors that count as exact: relative, of logits; absolute, of the natural logarithm of a probability."""

START, PREFIX, RESTS = 9, 21, (40, 23)
"""Tokens: of a beginning that is the base model's, of what examples share with it, of what follows; longer
than every window before and behind the place where examples part."""


def train_small(model: Path, adapter: Path) -> Trainer:
    """Train a few steps on the checkpoint `model` and export; the trainer holds the same adapter."""
    trainer = Trainer(model, SETTINGS)
    ((_, fit),) = trainer.fit([memory_job(MEMORY, SETTINGS)])
    adapter.mkdir(parents=True)
    export(adapter, fit.tensors, str(model), trainer.recipe, trainer.layers)
    trainer.stack.load(0, fit.tensors)
    return trainer


def make_bank(bank: Path, model: Path, adapter: Path, embedder: Embedder) -> None:
    """A bank with the adapter as MEMORY."""
    base = BaseModelInfo(str(model), fingerprint(model))
    (key,) = embedder.embed([MEMORY.text])
    item = banks.Item(MEMORY, adapter, key)
    banks.make_bank(bank, [item], base=base, embedder=embedder.info, shapes=linear_shapes(model))


def with_adapter(model: Path, adapter: Path | None, **fields: Any) -> Any:
    """The checkpoint as transformers loads it, with the adapter as PEFT does.

    `fields` of its config win. Attention is transformers' own, since torch's leaves soft caps out.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager", **fields
    ).eval()
    # A warning about missing or unexpected tensors is an error in tests.
    return base if adapter is None else PeftModel.from_pretrained(base, str(adapter)).eval()


def sample_rows() -> list[list[int]]:
    """Two texts of random tokens with a common beginning."""
    generator = torch.Generator().manual_seed(5)
    first, *rests = (
        torch.randint(100, WORDS, (count,), generator=generator).tolist() for count in (PREFIX, *RESTS)
    )
    return [first + rest for rest in rests]


@torch.no_grad()
def trainer_logits(trainer: Trainer, rows: Sequence[list[int]]) -> Tensor:
    """Of all tokens behind the common beginning of `rows`, row after row: [T, vocabulary]."""
    examples = pool([Encoded(row[:PREFIX], [*row[PREFIX:], 0], [], start=START) for row in rows])
    packed = pack([examples], [0], [0], [range(len(rows))])
    trainer.stack.assign(None)
    past = trainer.split.past(leads([examples]))
    hidden = trainer.split.below(torch.tensor(examples.ids), packed, past)
    trainer.stack.assign(packed.jobs, packed.labelled)
    above = trainer.split.above(hidden[packed.source], packed, past)
    logits: Tensor = trainer.split.head.logits(above)
    trainer.stack.assign(None)
    return logits


@torch.no_grad()
def plain_logits(model: Any, rows: Sequence[list[int]]) -> Tensor:
    """The same, as transformers computes them: one row at a time."""
    return torch.cat([model(input_ids=torch.tensor([row])).logits[0, PREFIX - 1 :] for row in rows])


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """The norm of what differs, as a part of what is wanted."""
    return float((got - wanted).norm() / wanted.norm())


@torch.no_grad()
def greedy_error(
    model: Any, prompt: Sequence[int], tokens: Sequence[int], logprobs: Sequence[float]
) -> float:
    """The largest difference of a logprob from the model's; infinite if it would have said other tokens."""
    row = torch.tensor([[*prompt, *tokens]])
    wanted = model(input_ids=row).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    if wanted.argmax(-1).tolist() != list(tokens):
        return float("inf")
    return float((wanted.amax(-1) - torch.tensor(logprobs)).abs().max())
