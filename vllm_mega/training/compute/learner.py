"""One memory in a round: its examples, what its steps have seen, and when it is done. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from vllm_mega.training.compute.packing import pool
from vllm_mega.training.recipe import schedule
from vllm_mega.training.recipe.encoding import Encoded
from vllm_mega.training.recipe.job import Job
from vllm_mega.training.recipe.recipe import Recipe


class Sight(NamedTuple):
    """What a step has seen of one memory, before it changed."""

    loss: float
    recalled: bool
    answered: list[bool]
    """For each question, whether every token of its answer was known."""
    ended: list[bool]
    """The same for those whose answer is learnt to its end."""


class Learner:
    """One job in a round."""

    def __init__(self, job: Job, encoded: Sequence[Encoded], recipe: Recipe) -> None:
        """`encoded` are the job's examples as tokens."""
        self.job = job
        self._recipe = recipe
        self.weights = [list(example.weights) for example in encoded]
        self.ends = [example.ends for example in encoded]
        self.recital = encoded[[example.kind for example in job.examples].index("recall")]
        self.steps = schedule.steps(job.examples, recipe, job.seed)
        self.window: deque[Sight] = deque(maxlen=recipe.ends.window)
        self._losses: deque[float] = deque(maxlen=recipe.ends.average)
        self._best, self._since = math.inf, 0
        # Examples that share what stands before start and a context share a pool: its text is computed once.
        begins = [(*one.lead, example.context) for one, example in zip(encoded, job.examples, strict=True)]
        groups = [[n for n, one in enumerate(begins) if one == begin] for begin in dict.fromkeys(begins)]
        self.pools = [pool([encoded[n] for n in group]) for group in groups]
        self.members = [{n: place for place, n in enumerate(group)} for group in groups]

    def recites(self, example: int) -> bool:
        """Whether this example asks for the whole text."""
        return self.job.examples[example].kind == "recall"

    def order(self, picked: Sequence[int]) -> list[int]:
        """`picked` examples as they are packed: pool by pool."""
        return [i for members in self.members for i in picked if i in members]

    def weigh_ends(self, surprise: float) -> None:
        """Let the ends of answers weigh as much as the untouched model is surprised by them.

        A chat model expects an end behind a sentence (2 nats); a base model would rather go on (30 nats, and
        still 2 when all else is learnt, if its ends weigh no more than other tokens).

        Args:
            surprise: mean of -log p(end) over answers, in nats.
        """
        rules = self._recipe.encoding
        weight = min(max(rules.per_nat * surprise, rules.emphasis), rules.heaviest)
        for weights, ends in zip(self.weights, self.ends, strict=True):
            if ends:
                weights[-1] = weight

    def note(self, sight: Sight) -> None:
        """Remember what a step has seen."""
        self.window.append(sight)
        self._losses.append(sight.loss)
        mean = sum(self._losses) / len(self._losses)
        self._since += 1
        if mean < (1 - self._recipe.ends.gain) * self._best:
            self._best, self._since = mean, 0

    def seems_learnt(self) -> bool:
        """Whether all of the last steps knew the text, and (nearly) all answers."""
        rules = self._recipe.ends
        recalled = len(self.window) == rules.window and all(sight.recalled for sight in self.window)
        # Apart: few answers are learnt to their end, and a model may know all but that it must stop there.
        for answers in ("answered", "ended"):
            known = [known for sight in self.window for known in getattr(sight, answers)]
            recalled = recalled and known.count(False) <= rules.slips * len(known)
        return recalled

    def is_stuck(self) -> bool:
        """Whether steps have not helped for long."""
        return self._since >= self._recipe.ends.patience
