"""The micro-batcher: batches under load, no waiting alone, and nobody's trouble is another's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from vllm_mega.requests.batching import MicroBatcher


class Recorder:
    """Squares; remembers its batches; waits for `gate` in each."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        self.threads.add(threading.get_ident())
        self.started.set()
        assert self.gate.wait(10)
        if 13 in items:
            raise RuntimeError("unlucky")
        return [ValueError(f"{n} is negative") if n < 0 else n * n for n in items]


async def started(recorder: Recorder) -> None:
    assert await asyncio.to_thread(recorder.started.wait, 10)


async def test_one_alone_does_not_wait() -> None:
    batcher = MicroBatcher(Recorder())
    assert await asyncio.wait_for(batcher.submit(3), 5) == 9
    batcher.close()


async def test_what_arrives_meanwhile_makes_the_next_batch() -> None:
    compute = Recorder()
    batcher = MicroBatcher(compute)
    compute.gate.clear()
    first = asyncio.create_task(batcher.submit(0))
    await started(compute)
    rest = [asyncio.create_task(batcher.submit(n)) for n in range(1, 6)]
    await asyncio.sleep(0)
    compute.gate.set()
    assert await asyncio.gather(first, *rest) == [0, 1, 4, 9, 16, 25]
    assert compute.batches == [[0], [1, 2, 3, 4, 5]]
    assert len(compute.threads) == 1
    assert threading.get_ident() not in compute.threads
    batcher.close()


async def test_batches_are_bounded() -> None:
    compute = Recorder()
    batcher = MicroBatcher(compute, max_batch=4)
    assert await asyncio.gather(*map(batcher.submit, range(10))) == [n * n for n in range(10)]
    assert max(map(len, compute.batches)) <= 4
    assert [n for batch in compute.batches for n in batch] == list(range(10))
    batcher.close()


async def test_what_fails_a_batch_reaches_only_who_caused_it_and_the_next_goes_on() -> None:
    batcher = MicroBatcher(Recorder())
    results = await asyncio.gather(*map(batcher.submit, (1, 13, 2, 13)), return_exceptions=True)
    assert [str(r) for r in results] == ["1", "unlucky", "4", "unlucky"]
    assert await batcher.submit(2) == 4
    batcher.close()


async def test_an_item_fails_alone() -> None:
    batcher = MicroBatcher(Recorder())
    results = await asyncio.gather(*map(batcher.submit, (1, -1, 2)), return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], ValueError)
    assert results[2] == 4
    batcher.close()


async def test_a_cancelled_caller_disturbs_nobody() -> None:
    compute = Recorder()
    batcher = MicroBatcher(compute)
    compute.gate.clear()
    running, leaving, staying = (asyncio.create_task(batcher.submit(n)) for n in (1, 2, 3))
    await asyncio.sleep(0)
    await started(compute)
    late = asyncio.create_task(batcher.submit(4))
    gone = asyncio.create_task(batcher.submit(5))
    await asyncio.sleep(0)
    leaving.cancel()
    gone.cancel()
    await asyncio.sleep(0)
    compute.gate.set()
    assert await asyncio.gather(running, staying, late) == [1, 9, 16]
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert compute.batches == [[1, 2, 3], [4]], "what was cancelled before it began is not computed"
    batcher.close()


async def test_a_wrong_number_of_results_is_an_error() -> None:
    batcher: MicroBatcher[int, int] = MicroBatcher(lambda items: list(items)[:-1])
    with pytest.raises(AssertionError, match="1 items gave 0 results"):
        await batcher.submit(1)
    batcher.close()
