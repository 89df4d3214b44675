"""What its engines have of forgotten memories, a server has them let go of, whoever forgot them, and where.

Every process that answers clients looks for itself, and tells all engines that it knows. What is gone is what
the engines have and no memory has any more: nothing has to be remembered, and telling twice does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from vllm.v1.engine.exceptions import EngineDeadError

from vllm_mega.bank.catalog.gone import forgotten_after, gone
from vllm_mega.bank.library import Library
from vllm_mega.memories.receipts.signing import Server

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks at the bank; that costs next to nothing."""
LATE = 300.0
"""Seconds for which the engines are asked after a memory was forgotten, after one second, two, four ...: a
request may have been given it before, and come to its engine late. An engine that is asked waits for its
step."""
PATIENCE = 5.0
"""Seconds that a receipt waits for requests to be done."""
_AGAIN = 0.05

Ask = Callable[..., Awaitable[Sequence[Any]]]
"""vLLM's `call_utility_all_async`: a method of all engines, and what each says."""


class Forgetting:
    """Belongs to one event loop.

    Args:
        library: of the bank; the gate's own, which forgets keys and texts whenever it is looked at.
        ask: the engines.
        end: whether requests that use what is forgotten end with an error; else they finish.
    """

    def __init__(self, library: Library, ask: Ask, *, end: bool) -> None:
        self._library, self._ask, self._end = library, ask, end
        self._loop = asyncio.get_running_loop()
        self._seen = library.event
        self._until = self._due = 0.0
        self._wait = INTERVAL

    async def run(self) -> None:
        """Look again and again, until the engines are dead."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.look()
            except EngineDeadError:
                return
            except Exception as error:  # the bank cannot be read, a worker has failed: it may pass
                logger.error("what is forgotten cannot be looked for: %s", error)

    async def look(self) -> None:
        """Let all engines let go of what they have and no memory has, if one was forgotten lately.

        Raises:
            BankError: the bank cannot be read.
        """
        if not await asyncio.to_thread(self._is_due):
            return
        self._due, self._wait = time.monotonic() + self._wait, 2 * self._wait
        held = await self._ask("collective_rpc", "mega_engine_held", None, (), None)
        parts = await asyncio.to_thread(gone, self._library.catalog, {part for some in held for part in some})
        if parts and (told := await self.let_go(parts)).running:
            logger.info("%d requests still use memories that were forgotten", told.running)
            self._due, self._wait = time.monotonic() + INTERVAL, INTERVAL
            self._until = max(self._until, self._due + INTERVAL)

    async def let_go(self, parts: Collection[str]) -> Server:
        """Let all engines let go of these parts of memories, but for those that requests use."""
        args = (sorted(parts), self._end)
        told = await self._ask("collective_rpc", "mega_engine_let_go", None, args, None)
        return Server(len(told), **{name: sum(one[name] for one in told) for name in Server.counts()})

    def let_go_now(self, parts: Collection[str]) -> Server:
        """The same, for another thread; waits a little for requests that use some of it."""
        return asyncio.run_coroutine_threadsafe(self._let_go_all(parts), self._loop).result()

    async def _let_go_all(self, parts: Collection[str]) -> Server:
        deadline = time.monotonic() + PATIENCE
        told = await self.let_go(parts)
        while told.running and time.monotonic() < deadline:
            await asyncio.sleep(_AGAIN)
            told = told.then(await self.let_go(parts))
        return told

    def _is_due(self) -> bool:
        """Apply what is new in the bank; whether the engines are to be asked."""
        self._library.refresh()
        event, now = self._library.event, time.monotonic()
        if event > self._seen:
            if forgotten_after(self._library.catalog, self._seen):
                self._until, self._due, self._wait = now + LATE, now, INTERVAL
            self._seen = event
        return self._due <= now < self._until
