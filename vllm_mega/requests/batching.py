"""Micro-batching: many awaiting callers, one worker thread, no artificial delay."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from vllm_mega.isolation import isolated

Item = TypeVar("Item")
Result = TypeVar("Result")


class MicroBatcher(Generic[Item, Result]):
    """Answers items in batches: what arrives while a batch is computed makes the next one.

    `compute` runs in a thread of its own, one batch at a time, and gives a result or an exception
    for each item, in order. If it raises, the batch is computed in parts, so that only the callers who
    cause it get the exception. A caller that is cancelled neither disturbs the others nor is computed for
    when it has not begun.
    """

    def __init__(
        self, compute: Callable[[Sequence[Item]], Sequence[Result | Exception]], max_batch: int = 64
    ) -> None:
        self._compute = compute
        self._max_batch = max_batch
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mega-gate")
        self._drain: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """The result for `item`.

        Raises:
            Exception: what `compute` gave or raised for the item.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._drain is None or self._drain.done():
            self._drain = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while batch := self._next_batch():
            results: Sequence[Result | Exception]
            try:
                results = await asyncio.get_running_loop().run_in_executor(
                    self._worker, isolated, self._compute, [item for item, _ in batch], Exception
                )
            except Exception as error:  # the thread is gone
                results = [error] * len(batch)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._max_batch:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch

    def close(self) -> None:
        """Let the thread go; nothing may be submitted any more."""
        self._worker.shutdown(wait=False, cancel_futures=True)
