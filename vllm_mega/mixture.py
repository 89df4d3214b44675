"""Mixture: which adapters a request uses, with which weights.

A mixture is canonical from birth: components are ordered by adapter digest, equal adapters are
added up, weights are multiples of 1/64 (exact in bfloat16 up to 4) and zero weights are gone. So
two mixtures that mean the same are equal, have the same digest, and share prefix-cache blocks;
two that differ never do.

A mixture travels through vLLM as an ordinary LoRARequest: `name` is its digest, `path` encodes
its components. This module knows strings only and does not import vLLM.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import msgspec

from vllm_mega.errors import MixtureError

WEIGHT_STEPS = 64
MAX_WEIGHT = 4.0
NAME_PREFIX = "mega-"
PATH_PREFIX = "mega+v1:"


def quantise(weight: float) -> int:
    """The number of steps of 1/64 nearest to `weight`.

    Raises:
        MixtureError: `weight` is not finite, or larger than 4 in magnitude.
    """
    if not math.isfinite(weight) or abs(weight) > MAX_WEIGHT:
        raise MixtureError(
            f"a weight must be a finite number in [-{MAX_WEIGHT:g}, {MAX_WEIGHT:g}], got {weight!r}",
            "mega.memories",
        )
    return round(weight * WEIGHT_STEPS)


class Component(NamedTuple):
    """One adapter of a mixture."""

    adapter: str
    """Content hash of the adapter (64 hex digits): what it is."""
    path: str
    """Directory of the adapter, or what else says where it is (`engine.holding`)."""
    steps: int
    """Weight in steps of 1/64, never 0."""

    @property
    def weight(self) -> float:
        return self.steps / WEIGHT_STEPS


class Mixture:
    """Ordered pairs (adapter, weight) in canonical form; empty means the base model."""

    __slots__ = ("__dict__", "components")

    components: tuple[Component, ...]

    def __init__(self, components: Iterable[tuple[str, str, float]] = ()) -> None:
        """Build the canonical form of (adapter digest, adapter directory, weight) triples.

        Raises:
            MixtureError: a weight is not finite or out of range.
        """
        steps: dict[str, int] = {}
        paths: dict[str, str] = {}
        for adapter, path, weight in components:
            steps[adapter] = steps.get(adapter, 0) + quantise(weight)
            # Equal content may lie in two places; the smaller path wins, so that order never matters.
            paths[adapter] = min(path, paths.get(adapter, path))
        self.components = tuple(
            Component(adapter, paths[adapter], quantise(n / WEIGHT_STEPS))  # a sum must be in range, too
            for adapter, n in sorted(steps.items())
            if n
        )

    def scaled(self, share: float) -> Mixture:
        """The same components with `share` of their weights; what rounds to 0 is gone."""
        return Mixture((c.adapter, c.path, c.weight * share) for c in self.components)

    def __len__(self) -> int:
        return len(self.components)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mixture) and self.components == other.components

    def __hash__(self) -> int:
        return hash(self.components)

    def __repr__(self) -> str:
        inner = ", ".join(f"{c.adapter[:8]}:{c.weight:g}" for c in self.components)
        return f"Mixture({inner})"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over adapter digests and steps: what the mixture computes, not where it lies."""
        text = "\n".join(f"{c.adapter} {c.steps}" for c in self.components)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def name(self) -> str:
        """The LoRARequest name."""
        return NAME_PREFIX + self.digest

    @cached_property
    def path(self) -> str:
        """The LoRARequest path: the components, decodable by `Mixture.from_path`."""
        return PATH_PREFIX + msgspec.json.encode(self.components, enc_hook=str).decode()

    @classmethod
    def from_path(cls, path: str) -> Mixture:
        """Read back what `path` wrote.

        Raises:
            MixtureError: `path` is not of our making, or not canonical.
        """
        if not is_mixture_path(path):
            raise MixtureError(f"not a mixture path: {path[:80]!r}")
        try:
            components = msgspec.json.decode(path[len(PATH_PREFIX) :], type=list[Component])
        except msgspec.MsgspecError as error:
            raise MixtureError(f"broken mixture path {path[:80]!r}: {error}") from error
        mixture = cls((c.adapter, c.path, c.weight) for c in components)
        if list(mixture.components) != components:
            raise MixtureError(f"mixture path is not in canonical form: {path[:80]!r}")
        return mixture


def is_mixture_path(path: str) -> bool:
    """Whether a LoRARequest path encodes a mixture (and not the directory of a plain adapter)."""
    return path.startswith(PATH_PREFIX)


EMPTY = Mixture()
"""The base model, untouched."""
