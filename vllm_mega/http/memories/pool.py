"""Threads of our own for work that waits for disks, databases and embedders: so many, and a bounded queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from vllm_mega.errors import BusyError

THREADS = 4
WAITING = 64
"""Requests that may wait for a thread; each may hold a body of `bodies.LARGEST_DOCUMENT` bytes."""
T = TypeVar("T")


class Pool:
    """Does work beside the event loop. Belongs to one event loop."""

    def __init__(self, threads: int = THREADS, waiting: int = WAITING) -> None:
        self._most = threads + waiting
        self._inside = 0
        self._executor = ThreadPoolExecutor(threads, "mega-memories")

    async def run(self, act: Callable[[], T]) -> T:
        """What `act` returns or raises. Work that has begun is finished, whoever waits for it.

        Raises:
            BusyError: as many wait as may.
        """
        if self._inside >= self._most:
            raise BusyError(f"{self._inside} requests about memories are being answered or wait: ask again")
        loop = asyncio.get_running_loop()
        self._inside += 1
        future = self._executor.submit(act)
        future.add_done_callback(lambda done: _tell(loop, self._done, done))
        return await asyncio.shield(asyncio.wrap_future(future, loop=loop))

    def _done(self) -> None:
        self._inside -= 1

    def close(self) -> None:
        """Take nothing more, and let what waits go."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _tell(loop: asyncio.AbstractEventLoop, act: Callable[[], None], _: Future[T]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(act)
