"""An engine that needs no model, for workers in processes of Ray's: what it does stands in the prompts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from vllm_mega.batch.lines import CHAT, Job, Reply
from vllm_mega.errors import BankNotFoundError


def job(number: int, does: str = "answer") -> Job:
    return Job(number, CHAT, {"does": does}, f"question {number}")


class FakeEngine:
    """Notes in `log`, a file for all, each job that it is asked and by which process."""

    def __init__(self, log: Path) -> None:
        self._log = log

    async def answer(self, job: Job) -> Reply:
        if job.refusal is not None:
            return job.refusal
        with self._log.open("a") as log:
            log.write(f"{job.id} {os.getpid()}\n")
        does, _, more = job.body["does"].partition(" ")
        if does == "refuse":
            return Reply.refused(f"no answer to {job.prompt}")
        if does == "wait":
            while not Path(more).exists():
                await asyncio.sleep(0.01)
        if does == "die" or (does == "die-once" and not Path(more).exists()):
            Path(more).touch()
            raise RuntimeError("the engine is dead")
        await asyncio.sleep(0.05 if int(job.id) % 3 == 0 else 0)
        message = {"content": f"answer to {job.prompt} é \u2028"}
        return Reply(
            200, {"choices": [{"message": message}], "mega": {"score": 0.1 + 0.2, "seed": 2**64 - 1}}
        )


@asynccontextmanager
async def fake_engine(log: Path, threads: int) -> AsyncIterator[FakeEngine]:
    """For `scale_out.Start`, its first argument given."""
    with log.open("a") as file:
        file.write(f"started {os.getpid()} {threads}\n")
    yield FakeEngine(log)


@asynccontextmanager
async def no_engine(threads: int) -> AsyncIterator[FakeEngine]:
    """For `scale_out.Start`."""
    raise BankNotFoundError(f"no bank for {threads} threads")
    yield
