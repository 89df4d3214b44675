"""A file's jobs on many workers: Ray Data hands lots of them around, each worker has an engine of its own.

Replies come in the order of the jobs, so that the output file is all the progress there is: the same as that
of a run alone, and either goes on where the other was stopped.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import socket
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from threading import Thread
from typing import Any, Protocol

from vllm_mega.batch.lines import Job, Reply
from vllm_mega.batch.lots import divided, packed_jobs, packed_replies, unpacked_jobs, unpacked_replies
from vllm_mega.errors import BatchError, ConfigError, MegaError
from vllm_mega.ray_cluster import RayCluster

LOTS_AT_ONCE = 8
"""In each worker: with those of `lots.LOT` jobs as many requests as a run alone has under way."""

LOSSES = 3
"""How often a worker is started again, and a lot asked again, before the run ends."""


class Engine(Protocol):
    """`engine.BatchEngine`."""

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
        BatchError: an engine does not start, or workers die again and again.
        ConfigError: Ray Data is not installed, or the cluster has too few GPUs.
    """
    cluster.require_gpus(gpus)
    data = _ray_data()
    lots = list(divided(jobs, cluster.workers))
    try:
        for number, row in enumerate(_mapped(data, cluster, start, lots, gpus).iter_rows()):
            if row["error"]:
                raise BatchError(row["error"])
            assert row["number"] == number, "Ray keeps the order"
            yield unpacked_replies(row["replies"])
    except cluster.ray.exceptions.RayActorError as error:
        raise BatchError(
            f"a worker died {LOSSES + 1} times. Too little memory for so many engines is the usual reason: "
            "try fewer --workers. What was answered before is in the output, and the next run goes on behind "
            f"it. Ray says: {str(error).splitlines()[0]}"
        ) from error


def _mapped(data: Any, cluster: RayCluster, start: Start, lots: Sequence[Sequence[Job]], gpus: int) -> Any:
    rows = [{"number": number, "jobs": packed_jobs(lot)} for number, lot in enumerate(lots)]
    with warnings.catch_warnings():
        # What says how often to start an actor again has no other name yet; the extra `ray` ends before 2.64.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        return data.from_items(rows, override_num_blocks=len(rows)).map(
            Worker,
            fn_constructor_args=(start, cluster.threads),
            compute=data.ActorPoolStrategy(
                size=cluster.workers,
                max_tasks_in_flight_per_actor=LOTS_AT_ONCE,
                max_concurrent_calls_per_actor=LOTS_AT_ONCE,
                enable_true_multi_threading=True,
            ),
            num_cpus=cluster.threads,
            num_gpus=gpus,
            max_restarts=LOSSES,
            max_task_retries=LOSSES,
        )


def _ray_data() -> Any:
    try:
        data = importlib.import_module("ray.data")
    except ImportError as error:
        raise ConfigError(
            f"several workers need Ray Data, which is not installed: pip install 'vllm-mega[ray]' ({error})"
        ) from error
    context = data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = context.print_on_execution_start = False
    context.wait_for_min_actors_s = 600  # else the first that is there takes all the lots of a small file
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is raised, and told once
    return data


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
