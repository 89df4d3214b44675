"""Trainers that are killed at random moments: what is done stays, nothing is half, and the next goes on."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec
import pytest
import torch

from tests.banks import adapters, events, problems
from tests.forks import PROCESSES
from tests.training.tiny import BELL, KETTLE, LAMP, SETTINGS
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.jobs import ATTEMPTS
from vllm_mega.bank.catalog.known import list_jobs
from vllm_mega.bank.layout import NewMemory
from vllm_mega.models import linear_shapes
from vllm_mega.training.run.outcome import Trained
from vllm_mega.training.run.session import train

THREE = (KETTLE, LAMP, BELL)
MANY = tuple(
    NewMemory(text=f"{one} {two} sing at night.", id=f"{one}-{two}".lower())
    for one in ("Geese", "Copper", "Nine", "The")
    for two in ("bells", "geese", "kettle", "lamp", "copper", "nights")
)
QUICK = msgspec.structs.replace(SETTINGS, max_steps=4, jobs=1)


def _slowly(told: Connection, bank: Path, tiny: Path, memories: Sequence[NewMemory]) -> None:
    torch.set_num_threads(1)

    def progress(done: int, _total: int, _last: Trained | None) -> None:
        told.send(done)
        time.sleep(0.2)  # so that the kill comes between any two steps

    train(bank, memories, str(tiny), f"base:{tiny}", QUICK, progress)


def start(bank: Path, tiny: Path, memories: Sequence[NewMemory] = THREE) -> tuple[BaseProcess, Connection]:
    """A training process, and what tells how many memories are done.

    All that are compared are processes of their own: an engine that ran in this one has changed how torch
    uses threads, and with that the last bits of sums. They are forks of one that has imported what they need.
    """
    heard, told = PROCESSES.Pipe(False)
    process = PROCESSES.Process(target=_slowly, args=(told, bank, tiny, memories))
    process.start()
    told.close()
    return process, heard


def finish(bank: Path, tiny: Path, memories: Sequence[NewMemory] = THREE) -> dict[str, str | None]:
    process, heard = start(bank, tiny, memories)
    with heard:
        process.join()
    assert process.exitcode == 0
    return adapters(bank)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> dict[str, str | None]:
    """The adapters of a run that nobody kills."""
    return finish(tmp_path_factory.mktemp("whole") / "bank", tiny)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_killed_at_any_moment_the_next_run_goes_on(
    tmp_path: Path, tiny: Path, whole: dict[str, str | None], after: int
) -> None:
    bank = tmp_path / "bank"
    process, heard = start(bank, tiny)
    with heard:
        while heard.recv() < after:
            pass
        time.sleep(0.05 * after)
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL

    done = adapters(bank)
    assert len(done) >= after
    finished = finish(bank, tiny)
    kinds = [kind for _, kind in events(bank)]
    assert kinds.count("ready") == 3, "what was there was trained again"
    assert kinds.count("leased") == 3 + kinds.count("returned") <= 4
    assert done.items() <= finished.items()
    assert problems(bank, linear_shapes(tiny)) == []
    assert finished == whole


@pytest.mark.slow
def test_up_to_thirty_kills(tmp_path: Path, tiny: Path) -> None:
    begun = time.monotonic()
    whole = finish(tmp_path / "whole", tiny, MANY)
    each = (time.monotonic() - begun) / len(MANY)  # by the pace of this machine, as busy as it is
    assert set(whole) == {memory.id for memory in MANY}
    bank, chance = tmp_path / "bank", random.Random(0)
    before: dict[str, str | None] = {}
    kills = 0
    while kills < 30:
        process, heard = start(bank, tiny, MANY)
        with heard, suppress(EOFError):  # it has nothing left to train
            assert heard.recv() == 0, "it trains now"
            time.sleep(chance.uniform(0, 1.5 * each))
            process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        done = adapters(bank)
        assert before.items() <= done.items() <= whole.items(), "what was done is lost, or is another"
        assert {problem.kind for problem in problems(bank, linear_shapes(tiny))} <= {"orphan", "staging"}
        before = done
    process, heard = start(bank, tiny, MANY)
    with heard:
        process.join()
    with open_catalog(bank) as catalog:
        failed = {job.id: job for job in list_jobs(catalog)}
    assert all(job.state == "failed" and job.reason and job.attempts == ATTEMPTS for job in failed.values())
    assert adapters(bank) == {memory: adapter for memory, adapter in whole.items() if memory not in failed}
    kinds = Counter(kind for _, kind in events(bank))
    assert kinds["ready"] == len(MANY) - len(failed), "what was there was trained again"
    assert kinds["returned"] + kinds["failed"] <= kills
    assert kills > 10
    assert len(before) > 5, "or nothing was killed but beginnings"
