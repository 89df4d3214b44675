"""Letting go: what an engine does when its server says that parts of memories are forgotten.

A server asks by `collective_rpc`, which reaches the engine's core between two steps. Nothing is kept in mind
here: what requests still use is told, and let go when it is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec


class LetGo(msgspec.Struct, frozen=True):
    """What one engine has let go of."""

    adapters: int = 0
    """Copies in host memory, of all its workers: overwritten and freed."""
    slots: int = 0
    """Of all its workers: overwritten."""
    blocks: int = 0
    """Of the prefix cache: no request finds them any more."""
    ended: int = 0
    """Requests that end with an error, after this step."""
    running: int = 0
    """Requests that use some of it, and wait or run: what they use stays until they are done."""


class Released(NamedTuple):
    """What the scheduler has let go of, and what it could not."""

    blocks: int
    ended: int
    running: int
    used: frozenset[str]
    """Parts that requests use."""


def held(core: Any) -> list[str]:
    """The parts of memories that the engine has something of.

    Args:
        core: vLLM's `EngineCore`.
    """
    workers = core.model_executor.collective_rpc("mega_held")
    return sorted(core.scheduler.held().union(*workers))


def let_go(core: Any, parts: Sequence[str], end: bool) -> dict[str, int]:
    """Let go of these parts, but for those that requests use.

    Args:
        core: vLLM's `EngineCore`.
        parts: by their names.
        end: whether requests that use one shall end with an error; else they finish.

    Returns:
        `LetGo`, as a mapping.
    """
    released: Released = core.scheduler.let_go(frozenset(parts), end=end)
    free = sorted(set(parts) - released.used)
    dropped = core.model_executor.collective_rpc("mega_drop", args=(free,)) if free else []
    adapters, slots = map(sum, zip(*dropped, strict=True)) if dropped else (0, 0)
    told = LetGo(adapters, slots, released.blocks, released.ended, released.running)
    return dict(msgspec.structs.asdict(told))


CALLS: dict[str, Callable[..., Any]] = {"mega_engine_held": held, "mega_engine_let_go": let_go}
"""What `collective_rpc` calls here, and not in the workers."""
