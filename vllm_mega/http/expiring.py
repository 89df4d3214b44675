"""A server forgets for good what has expired, while it runs. Never on the event loop."""

from __future__ import annotations

import asyncio
import logging

from vllm_mega.bank.catalog.catalog import Catalog
from vllm_mega.bank.catalog.expiring import expire
from vllm_mega.errors import BankError

logger = logging.getLogger(__name__)

EVERY_S = 60.0
"""Nothing is told of what has expired in between: it only lies on the disk a little longer."""


async def keep_expiring(catalog: Catalog, seconds: float = EVERY_S) -> None:
    """Look every so many seconds, until somebody cancels it; several servers of a bank may do so."""
    while True:
        try:
            gone = await asyncio.to_thread(expire, catalog)
        except BankError as error:
            logger.error("what has expired is not forgotten yet: %s", error)
        else:
            if gone:
                logger.info("%d memories have expired and are forgotten", len(gone))
        await asyncio.sleep(seconds)
