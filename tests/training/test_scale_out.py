from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import msgspec
import pytest
import torch

from tests.banks import adapters, problems
from tests.training.tiny import BELL, KETTLE, LAMP, SETTINGS
from vllm_mega.bank.catalog import jobs
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.records import MemoryName
from vllm_mega.errors import ConfigError, ModelError, TrainingError
from vllm_mega.models import linear_shapes
from vllm_mega.training.run.crew import Task
from vllm_mega.training.run.outcome import Failed
from vllm_mega.training.run.ray_workers import RayWorkers, WorkerLostError
from vllm_mega.training.run.scale_out import RayCrew
from vllm_mega.training.run.session import train

T = TypeVar("T")
QUICK = msgspec.structs.replace(SETTINGS, max_steps=4)
LONG = msgspec.structs.replace(SETTINGS, max_steps=60, jobs=2)
MEMORIES = [
    msgspec.structs.replace(memory, id=f"{memory.id}-{n}", text=f"{memory.text} {word}")
    for n, word in enumerate(("red", "copper", "nights"))
    for memory in (KETTLE, LAMP, BELL)
]


class FakeCluster:
    """Workers in this process; those of `dying` numbers are lost when they are asked the first time."""

    def __init__(self, lots: int, dying: range = range(0), reached: bool = True) -> None:
        self.workers, self._reached = 2, reached
        self.started = 0
        self._left, self._dying = lots, dying

    @contextmanager
    def connected(self) -> Iterator[None]:
        yield

    def require_reach(self, catalog: str | None) -> None:
        if catalog is None and not self._reached:
            raise ConfigError("the Ray cluster has 2 hosts")

    def start(self, *_: object) -> SimpleNamespace:
        number, self.started = self.started, self.started + 1
        return SimpleNamespace(lot=SimpleNamespace(remote=lambda: (number, object())))

    def first(self, references: list[tuple[int, object]]) -> tuple[int, object]:
        return references[0]

    def answer(self, reference: tuple[int, object]) -> tuple[int, list[Failed] | None]:
        number, _ = reference
        if number in self._dying:
            raise WorkerLostError("out of memory")
        self._left -= 1
        return 100 + number, [Failed("default", f"m-{self._left}", "no")] if self._left >= 0 else None


NAMES = [MemoryName("default", f"m-{n}") for n in range(5)]
TASK = Task(Path("/bank"), Path("/model"), "tiny", msgspec.structs.replace(SETTINGS, jobs=2))


def test_workers_are_asked_until_nothing_is_left_and_the_dead_are_replaced() -> None:
    cluster = FakeCluster(4, dying=range(2))
    crew = RayCrew(cluster)  # type: ignore[arg-type]
    assert [one.id for lot in crew(TASK, NAMES) for one in lot] == ["m-3", "m-2", "m-1", "m-0"]
    assert (cluster.started, crew.pids) == (4, [102, 103])


def test_workers_that_die_again_and_again_are_told() -> None:
    with pytest.raises(TrainingError, match=r"4 workers died .* try fewer.*: out of memory"):
        list(RayCrew(FakeCluster(4, dying=range(99)))(TASK, NAMES))  # type: ignore[arg-type]


def test_a_catalog_that_not_all_reach_is_refused() -> None:
    crew = RayCrew(FakeCluster(1, reached=False))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has 2 hosts"):
        list(crew(TASK, NAMES))
    url = msgspec.structs.replace(TASK, catalog="postgresql+psycopg://host/bank")
    assert len(list(crew(url, NAMES))) == 1


def _alone(function: Callable[..., T], *args: Path) -> T:
    """In a process of its own, as `vllm-mega train` is one: vLLM has imported Ray into this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        return pool.submit(function, *args).result(timeout=240)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _train_twice(tiny: Path, banks: Path) -> tuple[int, int]:
    """Here, then on Ray with a worker killed: memories that were trained there, and workers."""
    run = partial(train, memories=MEMORIES, model=str(tiny), embedder=f"base:{tiny}", settings=LONG)
    run(banks / "local")
    crew = RayCrew(RayWorkers(2))

    def kill(done: int, _total: int, _last: object) -> None:
        if done == 1:
            os.kill(crew.pids[0], signal.SIGKILL)

    report = run(banks / "ray", crew=crew, progress=kill)
    return len(report.trained), len(crew.pids)


def _train_what_is_not_there(tiny: Path, banks: Path) -> None:
    """The settings name a module that the model does not have."""
    run = partial(train, model=str(tiny), embedder=f"base:{tiny}")
    run(banks / "bank", MEMORIES[:1], settings=QUICK)
    recipe = msgspec.structs.replace(QUICK, modules=("fc1",))
    with open_catalog(banks / "bank") as catalog:
        jobs.request_training(catalog, [MemoryName("default", MEMORIES[0].id)], "tester")
    task = Task((banks / "bank").absolute(), tiny, "tiny", recipe)
    with closing(RayCrew(RayWorkers(1))(task, [MemoryName("default", MEMORIES[0].id)])) as lots:
        list(lots)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    """Workers share two cores or more: each has as many threads as the local run, which has one."""
    trained, workers = _alone(_train_twice, tiny, tmp_path)
    assert trained == len(MEMORIES)
    assert workers == 3, "one more than workers: it stands in for the dead one"
    assert adapters(tmp_path / "ray") == adapters(tmp_path / "local")
    assert problems(tmp_path / "ray", linear_shapes(tiny)) == []


@pytest.mark.slow
def test_what_a_worker_raises_is_raised_here(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fc1"):
        _alone(_train_what_is_not_there, tiny, tmp_path)
