"""All that decides an adapter beside its text, as one struct with one digest.

What a user may choose are the fields of `TrainSettings`; the groups below are what we have chosen. Training
is given a recipe and reads every constant from it, so that none can change without the digest, and what was
trained by another recipe is known and trained again. docs/training-log.md has how the numbers were found.
"""

from __future__ import annotations

import hashlib
from typing import Self

import msgspec

from vllm_mega import prompts, text
from vllm_mega.errors import ConfigError
from vllm_mega.training.recipe.english import English
from vllm_mega.training.recipe.settings import TrainSettings


class TextRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pool of examples of a memory (see `texts`)."""

    questions: int = 26
    """Made for a memory, without the text in the context ..."""
    informed: int = 14
    """... and with it."""
    limit: int = 7
    """Tokens of a sentence that are enough to choose it; the recall has all of them."""
    whole: float = 0.25
    """The part of the questions that is answered to the end of the sentence."""
    short: float = 0.65
    """The part of the questions that asks for no more than one sentence, as the paper's prompt does."""
    own: int = 4
    """Times that a question of the memory's own comes."""
    subject: int = 5
    """Words of the text that it is about, where it has neither title nor name."""


class QuestionRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which words of a sentence a question has (see `questions`)."""

    common: float = 0.3
    """The part of the questions with all words that say something, not with those of this sentence alone."""
    counts: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 5)
    """How many words; as likely as they stand here."""
    scattered: float = 0.5
    """The part of the questions whose words do not stand side by side."""
    lowered: float = 0.5
    """The part of the words that is in small letters."""


class EncodingRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the tokens of an answer weigh in the loss (see `encoding`)."""

    decisive: int = 3
    """So many tokens at the start of a sentence decide which one it becomes ..."""
    emphasis: float = 3.0
    """... and weigh so much; all that follow are easy to guess. The end weighs as much, until the model has
    shown what it thinks of ends ..."""
    per_nat: float = 0.3
    """... then so much for each nat of the untouched model's surprise ..."""
    heaviest: float = 9.0
    """... and at most so much (see `Learner.weigh_ends`)."""


class LossRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which tokens the loss looks at (see `loss`)."""

    likely: int = 4
    """Of every label's position: the tokens that the model finds likeliest take part."""
    near: float = 2.0
    """A token has come near a label when its logit is less than so much below."""
    rest: int = 8
    """Most steps between two looks at all tokens."""


class AlignmentRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an adapter starts (see `alignment`)."""

    start: float = 1.0
    """The size of A x at the start, root mean square."""
    more: int = 4
    """Directions beyond the rank that the search carries along: it converges faster."""
    turns: int = 2
    """Of the search, forth and back."""
    nothing: float = 1e-30
    """The unit of B where a layer writes nothing."""


class OptimizerRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a step moves the adapters: as a part of what their layers compute (see `optimizer`)."""

    betas: tuple[float, float] = (0.8, 0.9)
    """Of Adam: with so few steps, averages over more of them would still know the beginning."""
    columns: float = 70.0
    """How much further A moves than B, in units of the layer (see `alignment`). A x starts at the size 1, and
    a step of 0.01 moves it by at most 0.7: from 35 to 140 nothing was better, on two models."""
    epsilon: float = 1e-12
    """Gradients in units are small where units are."""


class EndRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the training of a memory ends (see `learner` and `round`)."""

    sure: float = 0.5
    """A token counts as known above this probability: then no other is as likely, by some margin."""
    least: int = 16
    """Steps that every memory gets: what is known early is not yet known under other words."""
    window: int = 3
    """The latest steps, which decide whether a memory is learnt."""
    slips: float = 0.2
    """The part of the questions in the window that may be answered otherwise: some are ambiguous."""
    average: int = 8
    """Losses are compared as means over so many steps: each step has other examples."""
    patience: int = 24
    """After so many steps without a gain, none is expected any more."""
    gain: float = 0.03
    """A mean loss that is lower by this part is a gain."""


class Recipe(TrainSettings, frozen=True, forbid_unknown_fields=True):
    """All that decides an adapter beside its text and its base model."""

    algorithm: int = 5
    """Raised by hand when training changes and no field shows it: another order of operations, another way of
    drawing, another formula. tests/training/test_golden.py fails when that was forgotten."""
    texts: TextRules = TextRules()
    questions: QuestionRules = QuestionRules()
    english: English = English()
    encoding: EncodingRules = EncodingRules()
    recalls: int = 8
    """One example of a step in so many asks for the whole text (see `schedule`)."""
    loss: LossRules = LossRules()
    alignment: AlignmentRules = AlignmentRules()
    optimizer: OptimizerRules = OptimizerRules()
    ends: EndRules = EndRules()
    prompts: tuple[str, ...] = prompts.TRAINED
    """As memories are asked when they are served: never others."""
    sentences: tuple[str, ...] = text.PATTERNS
    """By what texts are divided, as `vllm_mega.text` does it for all: never by others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, shared in (("prompts", prompts.TRAINED), ("sentences", text.PATTERNS)):
            if getattr(self, name) != shared:
                raise ConfigError(f"{name} of a recipe must be those of this version: leave them out")

    @classmethod
    def of(cls, settings: TrainSettings) -> Self:
        """The recipe with these settings; a recipe is its own."""
        return settings if isinstance(settings, cls) else cls(**msgspec.structs.asdict(settings))

    @property
    def digest(self) -> str:
        """SHA-256 of all fields that decide, but for rounding: not of `jobs` and `seconds`.

        Names count as they are: resolve them first (`targets.resolved`).
        """
        decisive = msgspec.to_builtins(self)
        del decisive["jobs"], decisive["seconds"]
        if not self.chat_template:  # the model's own belongs to the model
            del decisive["chat_template"]
        return hashlib.sha256(msgspec.json.encode(decisive, order="deterministic")).hexdigest()
