"""A server's look at its bank: whether it can be read, and how much is in it. Never on the event loop."""

from __future__ import annotations

import asyncio
import logging

from vllm_mega.bank.catalog.sizes import Sizes, sizes
from vllm_mega.bank.library import Library
from vllm_mega.errors import BankError

logger = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds; a bank that takes longer, such as one on a network that hangs, does not answer."""


class Watch:
    """Looks at a bank for whoever asks; of many who ask while it looks, all get the same answer.

    Args:
        library: of the bank; the gate's own, so that what it knows is what is looked at.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self._look: asyncio.Task[Sizes] | None = None
        self._counted: tuple[int, Sizes] | None = None

    async def sizes(self) -> Sizes:
        """How much is in the bank.

        Raises:
            BankError: it cannot be read, or does not answer in time.
        """
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(asyncio.to_thread(self._sizes))
        try:
            return await asyncio.wait_for(asyncio.shield(self._look), PATIENCE)
        except TimeoutError:
            raise BankError(f"the bank has not answered within {PATIENCE:g} s") from None

    async def trouble(self) -> str:
        """Why the bank cannot be read; empty: it can. The log gets the reason, too."""
        try:
            await self.sizes()
        except BankError as error:
            logger.error("not ready: %s", error)
            return str(error)
        return ""

    @property
    def event(self) -> int:
        """Number of the last event that the gate knows."""
        return self._library.event

    def _sizes(self) -> Sizes:
        """Counted anew only when something has changed."""
        self._library.refresh()
        event = self._library.event
        if self._counted is None or self._counted[0] != event:
            self._counted = event, sizes(self._library.catalog)
        return self._counted[1]
