"""What is asked: prompts, and which mixture each request brings. Pure; one seed, one sequence.

Every scenario asks the same questions in the same order, so that only the mixtures differ, and whether a long
text that is the same for all stands before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_mega.mixture import WEIGHT_STEPS
from vllm_mega.requests.schemas import FIELD

SCENARIOS = ("base", "one-memory", "zipf", "all-different", "prefix-base", "prefix-different")
"""In the order in which they are shown."""
PREFIX = "prefix-"
"""Scenarios behind a shared text begin so."""
PREFIX_WORDS = 1600
"""Of that text: about 2,000 tokens."""
ZIPF_EXPONENT = 1.1
WIDTHS = (2, 4)
"""Fewest and most memories in a mixture of `all-different`."""
WORDS = (26, 48)
"""Fewest and most words of a prompt: 32 to 64 tokens with the default model's tokenizer."""

_VOCABULARY = [
    "the",
    "a",
    "an",
    "old",
    "new",
    "small",
    "river",
    "bridge",
    "garden",
    "lantern",
    "harbour",
    "letter",
    "window",
    "music",
    "teacher",
    "morning",
    "winter",
    "stone",
    "paper",
    "silver",
    "quiet",
    "early",
    "narrow",
    "distant",
    "village",
    "market",
    "kitchen",
    "mountain",
    "captain",
    "story",
    "question",
    "walks",
    "writes",
    "opens",
    "finds",
    "keeps",
    "carries",
    "builds",
    "remembers",
    "answers",
    "sings",
    "sells",
    "paints",
    "repairs",
    "follows",
    "with",
    "without",
    "under",
    "behind",
    "between",
    "after",
    "before",
    "across",
    "near",
    "while",
    "because",
    "and",
    "or",
    "but",
    "then",
    "again",
    "often",
]

_DIFFERENT = ("all-different", "different")
Parts = tuple[tuple[str, float], ...]
"""(id, weight) of each memory; weights are positive and sum to 1."""


@dataclass(frozen=True)
class Request:
    """One prompt and the mixture that answers it; empty: the base model's name is asked."""

    prompt: str
    mixture: Parts = ()
    start: int = 0
    """The character of the prompt from which the mixture acts."""

    @property
    def extra(self) -> dict[str, Any]:
        """What it adds to the body of an OpenAI request."""
        if not self.mixture:
            return {}
        asked: dict[str, Any] = {"memories": [{"id": id_, "weight": weight} for id_, weight in self.mixture]}
        return {FIELD: asked | ({"start": {"character": self.start}} if self.start else {})}


def reference(scenario: str) -> str:
    """The scenario of the base model that `scenario` is compared with."""
    return f"{PREFIX}base" if scenario.startswith(PREFIX) else "base"


def requests_of(scenario: str, ids: Sequence[str], count: int, seed: int, widest: int) -> list[Request]:
    """The first `count` requests of a scenario; a larger `count` begins with the same ones.

    Args:
        scenario: one of SCENARIOS.
        ids: of the memories; for Zipf the first is the most popular.
        count: how many.
        seed: decides all of it.
        widest: most memories that a mixture may have (the server's slots).

    Raises:
        ValueError: an unknown scenario, or fewer memories or slots than it needs.
    """
    kind = scenario.removeprefix(PREFIX)
    if not ids or (kind in _DIFFERENT and min(len(ids), widest) < WIDTHS[0]):
        raise ValueError(f"{scenario}: {len(ids)} memories and {widest} slots are too few")
    # A stream each: what one scenario draws must not move the prompts or another scenario.
    words, draws, shared = (np.random.default_rng([seed, stream]) for stream in range(3))
    prefix = _sentence(shared, PREFIX_WORDS) if scenario.startswith(PREFIX) else ""
    questions = [_question(words) for _ in range(count)]
    mixtures: Sequence[Parts]
    if kind == "base":
        mixtures = [()] * count
    elif kind == "one-memory":
        mixtures = [((ids[0], 1.0),)] * count
    elif kind == "zipf":
        shares = zipf_shares(len(ids))
        mixtures = [((ids[draws.choice(len(ids), p=shares)], 1.0),) for _ in range(count)]
    elif kind in _DIFFERENT:
        mixtures = _different(draws, ids, count, min(WIDTHS[1], len(ids), widest))
    else:
        raise ValueError(f"unknown scenario {scenario!r}: expected one of {', '.join(SCENARIOS)}")
    return [
        Request(f"{prefix} {question}".strip(), mixture, len(prefix))
        for question, mixture in zip(questions, mixtures, strict=True)
    ]


def zipf_shares(count: int) -> npt.NDArray[np.float64]:
    """How probable each rank is, [count]: proportional to 1 / rank**1.1."""
    weights = 1.0 / np.arange(1, count + 1) ** ZIPF_EXPONENT
    return np.asarray(weights / weights.sum())


def _question(words: np.random.Generator) -> str:
    return _sentence(words, int(words.integers(WORDS[0], WORDS[1] + 1)))


def _sentence(words: np.random.Generator, length: int) -> str:
    return " ".join(words.choice(_VOCABULARY, length)).capitalize() + "."


def _different(draws: np.random.Generator, ids: Sequence[str], count: int, widest: int) -> list[Parts]:
    """`count` mixtures, no two of which are equal, not even after the engine has rounded the weights."""
    mixtures: dict[frozenset[tuple[str, float]], Parts] = {}
    while len(mixtures) < count:
        width = int(draws.integers(WIDTHS[0], widest + 1))
        chosen = draws.choice(len(ids), width, replace=False)
        cuts = np.sort(draws.choice(np.arange(1, WEIGHT_STEPS), width - 1, replace=False))
        steps = np.diff(cuts, prepend=0, append=WEIGHT_STEPS)
        mixture = tuple((ids[i], int(step) / WEIGHT_STEPS) for i, step in zip(chosen, steps, strict=True))
        mixtures.setdefault(frozenset(mixture), mixture)
    return list(mixtures.values())
