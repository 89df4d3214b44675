"""What training will cost, before a weight is loaded: bytes, memory, products, seconds. Pure arithmetic.

The shapes come from the headers of the checkpoint, the tokens from the memories at hand; the rest are the
rules by which the trainer works (`round`, `lora`, `alignment`, `truth`), counted as it counts them itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from vllm_mega.models.architectures import EXPERTS
from vllm_mega.training.recipe.settings import TrainSettings
from vllm_mega.training.recipe.targets import layer_index, selected

STEPS = 24
"""Of a memory, mean: 22 to 27 in docs/training-log.md (16 are the least, and few need more than 40)."""
REST = 6
"""Steps between two looks at all tokens, mean over a training: often at first, then every eighth."""
CANDIDATES = 5
"""Tokens that the loss looks at, by label of a step: the label and the four likeliest beside it."""
TURNS = 5
"""Thin products with the first gradient of a layer, which turn A (see `alignment`)."""
THIN = 4
"""Columns of these beyond the rank."""
ROWS = 1024
"""Logits of all tokens exist for so many labels at once (see `loss`) ..."""
LOGITS = 2**27
"""... and when memories recite, for so many numbers (see `truth`)."""
RUNTIME = 0.7e9
"""Bytes of the process without a model: Python, torch, transformers, an embedder."""


class Shape(NamedTuple):
    """What of a model counts here: numbers of weights, and widths."""

    total: int
    """All numbers in the checkpoint."""
    below: int
    """Those of linear layers below the first layer with adapters, that a token meets ..."""
    above: int
    """... and from there on, without ..."""
    last: int
    """... the last layer's MLP, which labelled tokens alone meet."""
    adapted: int
    """Those of the linear layers that get adapters."""
    largest: int
    """Those of the largest of these."""
    adapter: int
    """Numbers of one adapter."""
    saved: int
    """Numbers that a token leaves for the backward pass: what the linear layers from there on read and
    write. Norms and attention keep no more than the layers that keep nothing would."""
    hidden: int
    vocabulary: int


class Tokens(NamedTuple):
    """Of one memory, means over those at hand."""

    lead: float
    """Before start, where the base model computes: a round runs them once, whatever its memories are."""
    pool: float
    """From start on, of all of its examples: the layers below all adapters run them once."""
    step: float
    """In the row of a step."""
    labels: float
    """Labelled in a step."""
    recital: float
    """Of the prompt and the text, as the memory is asked at the end ..."""
    text: float
    """... and of the text alone."""


class Flops(NamedTuple):
    """Multiplications and additions of one memory."""

    once: float
    """What stands before start, and the layers below all adapters."""
    step: float
    """A step: the layers above forth and back, adapters, head."""
    turn: float
    """Turning A at the first step."""
    check: float
    """Asking the untouched model for the text at the end."""

    def memory(self, steps: int) -> float:
        """All of a training of `steps` steps."""
        return self.once + steps * self.step + self.turn + self.check


def shape_of(
    linear: Mapping[str, tuple[int, int]],
    settings: TrainSettings,
    *,
    total: int,
    hidden: int,
    vocabulary: int,
    active: float = 1.0,
    mlp: Sequence[str] = (),
) -> Shape:
    """The shape of a model for adapters of these settings.

    Args:
        linear: (O, I) by linear module.
        settings: resolved.
        total: numbers of all weights.
        hidden: width of what the head reads.
        vocabulary: rows of the head.
        active: the part of its experts that a token meets; 1 if there are none.
        mlp: last name parts of the MLP's linear layers; one that is no module of its own meets all tokens.

    Raises:
        ModelError: the model does not have the layers that the settings ask for.
    """
    chosen = selected(linear, settings)
    weights = _weights_met(linear, min(map(layer_index, chosen)), active, mlp)
    sizes = [linear[name][0] * linear[name][1] for name in chosen]
    numbers = settings.rank * sum(sum(linear[name]) for name in chosen)
    return Shape(
        total,
        round(weights.below),
        round(weights.above),
        round(weights.last),
        sum(sizes),
        max(sizes),
        numbers,
        round(weights.saved),
        hidden,
        vocabulary,
    )


class _Weights(NamedTuple):
    """See the fields of `Shape`; a part of an expert's weights counts where a token meets a part of them."""

    below: float
    above: float
    last: float
    saved: float


def _weights_met(
    linear: Mapping[str, tuple[int, int]], cut: int, active: float, mlp: Sequence[str]
) -> _Weights:
    """What a token meets below the layer `cut`, and from there on; the rest is as for `shape_of`."""
    top = max(map(layer_index, linear))
    below = above = last = saved = 0.0
    for name, (o, i) in linear.items():
        share = active if EXPERTS.intersection(name.split(".")) else 1.0
        if 0 <= layer_index(name) < cut:
            below += share * o * i
        elif layer_index(name) >= cut:
            *_, holder, last_part = name.split(".")
            late = layer_index(name) == top and last_part in mlp and not holder.isdecimal()
            last += share * o * i * late
            above += share * o * i * (not late)
            saved += share * (o + i)
    return _Weights(below, above, last, saved)


def flops(shape: Shape, tokens: Tokens, settings: TrainSettings) -> Flops:
    """Of one memory, as one of `settings.jobs`.

    A product with W takes 2 a weight and token, its backward pass as many again: frozen weights need no
    gradient. Attention is not counted: below 2 % of a large model.
    """
    jobs = settings.jobs
    head = shape.hidden * shape.vocabulary
    candidates = min(shape.vocabulary, CANDIDATES * tokens.labels * jobs)
    # Each token meets the adapters of all jobs, and a mask leaves it its own.
    adapters = 6.0 * tokens.step * shape.adapter * jobs
    looks = 2.0 * tokens.labels * head / REST + 4.0 * tokens.labels * candidates * shape.hidden
    whole = shape.below + shape.above + shape.last
    thin = 2.0 * TURNS * (settings.rank + THIN) * shape.adapted
    return Flops(
        once=2.0 * tokens.pool * shape.below + 2.0 * tokens.lead / jobs * whole,
        step=4.0 * (tokens.step * shape.above + tokens.labels * shape.last) + adapters + looks,
        turn=4.0 * tokens.step * shape.adapted + thin,
        check=2.0 * tokens.recital * whole + 2.0 * tokens.text * head,
    )


def peak_bytes(shape: Shape, tokens: Tokens, settings: TrainSettings, width: int) -> float:
    """The most memory that training takes, `settings.jobs` side by side.

    Args:
        shape: of the model.
        tokens: of a memory.
        settings: how it is trained.
        width: bytes of a number in the type that the model computes in: 2 or 4.
    """
    jobs = settings.jobs
    lasting = RUNTIME + width * shape.total
    lasting += 16.0 * jobs * shape.adapter  # float32: the number, its gradient, two averages of Adam
    lasting += width * jobs * tokens.pool * shape.hidden
    row = width * jobs * tokens.step * shape.saved
    turning = 4.0 * shape.largest + width * shape.largest
    rows = min(ROWS, jobs * tokens.labels)
    looking = max(rows * width, tokens.labels * (width + 8)) * shape.vocabulary
    reciting = min(LOGITS, jobs * tokens.text * shape.vocabulary) * width
    return lasting + max(row + max(turning, looking), reciting)


def most_jobs(shape: Shape, tokens: Tokens, settings: TrainSettings, width: int, free: float) -> int:
    """How many memories, at most `settings.jobs`, can be trained side by side in `free` bytes; 0: none."""
    fitting = (
        jobs
        for jobs in range(settings.jobs, 0, -1)
        if peak_bytes(shape, tokens, replace(settings, jobs=jobs), width) <= free
    )
    return next(fitting, 0)
