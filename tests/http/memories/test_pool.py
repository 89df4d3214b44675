"""Work beside the event loop: bounded, and finished."""

from __future__ import annotations

import asyncio
import threading

import pytest

from vllm_mega.errors import BusyError, RequestError
from vllm_mega.http.memories.pool import Pool


async def until(condition: object) -> None:
    async with asyncio.timeout(20):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


async def test_what_is_done_comes_back_and_so_does_an_error() -> None:
    pool = Pool(threads=1, waiting=0)

    def refuse() -> None:
        raise RequestError("no")

    assert await pool.run(lambda: 7) == 7
    await until(lambda: pool._inside == 0)
    with pytest.raises(RequestError, match="no"):
        await pool.run(refuse)
    pool.close()


async def test_more_than_may_wait_hear_so_at_once() -> None:
    pool, go = Pool(threads=1, waiting=1), threading.Event()
    inside = [asyncio.create_task(pool.run(go.wait)) for _ in range(2)]
    await until(lambda: pool._inside == 2)
    with pytest.raises(BusyError, match="ask again"):
        await pool.run(lambda: 7)
    go.set()
    await asyncio.gather(*inside)
    await until(lambda: pool._inside == 0)
    assert await pool.run(lambda: 7) == 7
    pool.close()


async def test_who_leaves_does_not_make_room_before_the_work_is_done() -> None:
    pool, go, done = Pool(threads=1, waiting=0), threading.Event(), threading.Event()

    def work() -> None:
        go.wait()
        done.set()

    task = asyncio.create_task(pool.run(work))
    await until(lambda: pool._inside == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(BusyError):
        await pool.run(lambda: 7)
    go.set()
    await until(lambda: pool._inside == 0)
    assert done.is_set()
    pool.close()
