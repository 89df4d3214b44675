"""Why a gate has decided as it has: who came next, and what links did. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from vllm_mega.config import GateSettings
from vllm_mega.gate.selection import NO_CHANCE, Links, Scores, followed

RUNNERS_UP = 4
"""So many are told at most: of those that a decision looks at, there are always as many beside the chosen."""

Why = Literal["threshold", "twin", "top_k", "outweighed", "mode"]
"""Why a memory is not used: its score is too low; one that says nearly the same is nearer, or newer; others
are better; links, or its rounded weight, left nothing for it; the mode uses only what weighs enough."""


class RunnerUp(NamedTuple):
    """A memory that is not used."""

    position: int
    """In the scores."""
    why: Why


class Link(NamedTuple):
    """A link of a chosen memory, by positions in the scores."""

    source: int
    target: int
    raised: float
    """The score that the target has by it, its own if that is higher."""


@dataclass(frozen=True)
class Weighed:
    """What one decision has looked at."""

    scores: Scores
    """[N], as they are; the memories found by their scores come first, the best of them at the beginning."""
    open_scores: Scores
    """[N], minus infinity where a memory that says nearly the same has taken its place."""
    best: Sequence[int]
    """Positions of those that win by their own scores."""
    links: Links
    chosen: Sequence[int]


def runners_up(weighed: Weighed, found: int, settings: GateSettings) -> list[RunnerUp]:
    """The best that are not used, of the first `found`, with the reason of each."""
    others = [n for n in range(found) if n not in weighed.chosen]
    return [RunnerUp(n, _why(weighed, n, settings)) for n in others[:RUNNERS_UP]]


def links(weighed: Weighed, settings: GateSettings) -> Iterator[Link]:
    """What the links of the best did: each that was followed."""
    raised = followed(weighed.open_scores, weighed.best, settings, weighed.links)
    for target, (source, score) in raised.items():
        yield Link(source, target, max(score, float(weighed.open_scores[target])))


def _why(weighed: Weighed, n: int, settings: GateSettings) -> Why:
    if weighed.open_scores[n] == NO_CHANCE:
        return "twin"
    if weighed.scores[n] < settings.threshold:
        return "threshold"
    return "outweighed" if n in weighed.best else "top_k"
