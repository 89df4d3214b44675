"""What a search tells."""

from __future__ import annotations

from typing import Literal

import msgspec

from vllm_mega.bank.catalog.records import State


class Found(msgspec.Struct, frozen=True):
    """A memory that a search has found."""

    id: str
    title: str
    text: str
    """Of the version that answers."""
    version: int
    state: State
    tags: tuple[str, ...]
    score: float | None
    """Cosine with what was asked."""
    weight: float
    """That it would have in a mixture; 0: it would not be used."""


class Share(msgspec.Struct, frozen=True):
    """A memory of the mixture."""

    id: str
    weight: float
    score: float | None
    linked: bool
    """It is there for the sake of a link: its own score is below the threshold."""


class Tip(msgspec.Struct, frozen=True):
    """A memory that is as near as the best, but for a margin."""

    id: str
    salience: float
    """What use and age have made of it, 0 to 1; 1: it is pinned."""
    added: float
    """To its score, before the mixture is chosen."""


class Explained(msgspec.Struct, frozen=True):
    """What the gate would do."""

    threshold: float
    top_k: int
    beta: float
    link_share: float
    best_score: float | None
    """Of any memory; null: none took part."""
    mixture: tuple[Share, ...]
    """The heaviest first; empty: the base model would answer."""
    salience: tuple[Tip, ...] | msgspec.UnsetType = msgspec.UNSET
    """Near ties, which use decides; absent: on this server use does not count."""


class FoundList(msgspec.Struct, frozen=True):
    """What a search has found, the best first."""

    data: tuple[Found, ...]
    explain: Explained | None = None
    """Where it was asked for."""
    object: Literal["list"] = "list"
