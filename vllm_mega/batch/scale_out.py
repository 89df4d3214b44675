"""A file's jobs on many workers: Ray Data hands lots of them around, each worker has an engine of its own.

Replies come in the order of the jobs, so that the output file is all the progress there is: the same as that
of a run alone, and either goes on where the other was stopped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from threading import Thread
from typing import Any, Protocol

from vllm_mega.batch.lines import Job, Reply
from vllm_mega.batch.lots import divided, packed_jobs, packed_replies, unpacked_jobs, unpacked_replies
from vllm_mega.errors import BatchError, MegaError
from vllm_mega.ray_cluster import RayCluster
from vllm_mega.ray_data import mapped

LOTS_AT_ONCE = 8
"""In each worker: with those of `lots.LOT` jobs as many requests as a run alone has under way."""


class Engine(Protocol):
    """What answers jobs in a worker, as `engine.BatchEngine` does."""

    async def answer(self, job: Job) -> Reply:
        """The reply; raises only when the engine is dead."""
        ...


Start = Callable[[int], AbstractAsyncContextManager[Engine]]
"""Starts an engine with so many threads; Ray carries it to the workers."""


def answered(
    cluster: RayCluster, start: Start, jobs: Sequence[Job], gpus: int = 0
) -> Generator[list[Reply], None, None]:
    """The replies to all jobs, in their order, some at a time. Closing the generator ends the workers.

    Args:
        cluster: connected.
        start: of a worker's engine; called in its process, when its first lot comes.
        jobs: any number; a lot whose worker dies is answered by another.
        gpus: of each worker.

    Raises:
        BatchError: an engine does not start, or a worker dies again and again.
        ConfigError: Ray Data is not installed, or the cluster has too few GPUs.
    """
    lots = enumerate(divided(jobs, cluster.workers))
    rows = [{"number": number, "jobs": packed_jobs(lot)} for number, lot in lots]
    for number, row in enumerate(mapped(cluster, Worker, (start,), rows, at_once=LOTS_AT_ONCE, gpus=gpus)):
        if row["error"]:
            raise BatchError(row["error"])
        assert row["number"] == number, "Ray keeps the order"
        yield unpacked_replies(row["replies"])


class Worker:
    """A process of Ray's with an engine; several threads ask it at a time."""

    def __init__(self, start: Start, threads: int) -> None:
        """Nothing is started yet: what went wrong here, Ray would report as the death of the worker."""
        self._start = start
        self._threads = threads
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, daemon=True).start()
        self._engine: asyncio.Task[Engine] | None = None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The number of a lot and the replies to it, or why there can be none."""
        jobs = unpacked_jobs(row["jobs"])
        answer = {"number": row["number"], "replies": b"", "error": ""}
        try:
            replies = asyncio.run_coroutine_threadsafe(self._answer(jobs), self._loop).result()
        except BatchError as error:
            return {**answer, "error": str(error)}
        return {**answer, "replies": packed_replies(replies)}

    async def _answer(self, jobs: Sequence[Job]) -> list[Reply]:
        if self._engine is None:
            self._engine = asyncio.create_task(self._started())
        engine = await self._engine
        try:
            return await asyncio.gather(*map(engine.answer, jobs))
        except Exception:  # the engine is dead: Ray starts another worker, and asks it for the same
            logging.getLogger(__name__).exception("the engine of this worker is dead")
            os._exit(1)

    async def _started(self) -> Engine:
        self._context = self._start(self._threads)
        try:
            return await self._context.__aenter__()
        except Exception as error:
            reason = str(error) if isinstance(error, MegaError) else repr(error)
            raise BatchError(f"the engine on {socket.gethostname()} does not start: {reason}") from error
