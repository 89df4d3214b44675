"""How long an event loop is held, seen from inside: vllm serve --middleware loadtests.lateness.Lateness

A task in the loop sleeps a millisecond at a time; how much later it wakes, somebody has held the loop, or the
processor. `GET /lateness` tells what was seen since it was last asked.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence

import msgspec
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PATH = "/lateness"
PERIOD = 0.001


class Lateness:
    """ASGI middleware: watches the loop from the first request on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._task: asyncio.Task[None] | None = None
        self._seen: list[tuple[float, float]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._watch())
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        seen, self._seen = self._seen, []
        await JSONResponse(seen)(scope, receive, send)

    async def _watch(self) -> None:
        """Pairs of seconds: how late the task woke, and how long its thread waited for a processor."""
        told = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        waited = _waited(told)
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(PERIOD)
            late, before = time.perf_counter() - begun - PERIOD, waited
            waited = _waited(told)
            self._seen.append((late, waited - before))


def _waited(told: int) -> float:
    """Seconds that a thread has been ready to run and had no processor; see proc_pid_schedstat(5)."""
    return int(os.pread(told, 100, 0).split()[1]) / 1e9


class Seen(msgspec.Struct, frozen=True):
    """Of a loop, in milliseconds. Held: how late it was, without what its thread waited for a processor."""

    looks: int
    late_median: float
    late_p99: float
    late_most: float
    held_p99: float
    held_most: float
    held_too_long: int
    """Looks that found it held longer than it may be."""


def summary(pairs: Sequence[Sequence[float]], most: float) -> Seen:
    """What pairs as `Lateness` tells them amount to; `most`: milliseconds that it may be held."""
    late = sorted(1e3 * pair[0] for pair in pairs)
    held = sorted(1e3 * max(0.0, pair[0] - pair[1]) for pair in pairs)
    return Seen(
        len(pairs), _at(late, 0.5), _at(late, 0.99), _at(late, 1.0), _at(held, 0.99), _at(held, 1.0),
        sum(one > most for one in held),
    )  # fmt: skip


def _at(ordered: Sequence[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)
