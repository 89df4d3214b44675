from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import msgspec
import pytest
import torch

from tests.training.test_session import adapters
from tests.training.tiny import BELL, KETTLE, LAMP, SETTINGS
from vllm_mega.bank.verify import verify
from vllm_mega.errors import ConfigError, ModelError, TrainingError
from vllm_mega.models import linear_shapes
from vllm_mega.training.ray_cluster import LOOPBACK_ONLY, RayCluster
from vllm_mega.training.recipe import Recipe
from vllm_mega.training.scale_out import ATTEMPTS, Chunks, LocalFitter, RayFitter, chunks
from vllm_mega.training.session import train

T = TypeVar("T")
QUICK = msgspec.structs.replace(SETTINGS, max_steps=4)
LONG = msgspec.structs.replace(SETTINGS, max_steps=60, jobs=2)
MEMORIES = [
    msgspec.structs.replace(memory, id=f"{memory.id}-{n}", text=f"{memory.text} {word}")
    for n, word in enumerate(("red", "copper", "nights"))
    for memory in (KETTLE, LAMP, BELL)
]


def test_chunks_are_runs_in_order() -> None:
    assert chunks(5, 2) == [range(2), range(2, 4), range(4, 5)]
    assert chunks(4, 4) == [range(4)]
    assert chunks(0, 4) == []


def test_a_lost_chunk_comes_next_and_not_for_ever() -> None:
    left = Chunks([KETTLE, LAMP, BELL], 2)
    assert len(left) == 2
    chunk = left.take()
    for _ in range(ATTEMPTS - 1):
        left.lost(chunk, "killed")
        assert left.take() == chunk
    with pytest.raises(TrainingError, match=r"memories: kettle, lamp.*The last one: killed"):
        left.lost(chunk, "killed")
    assert left.take() == range(2, 3)
    assert len(left) == 0


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'vllm-mega\[ray\]'"):
        RayCluster(2)


def test_a_ray_that_would_listen_to_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.delenv(LOOPBACK_ONLY, raising=False)
    with pytest.raises(ConfigError, match=r"imported before .* process of its own"):
        RayCluster(2)


def test_no_workers_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 worker, got 0"):
        RayCluster(0)


def _alone(function: Callable[..., T], *args: Path) -> T:
    """In a process of its own, as `vllm-mega train` is one: vLLM has imported Ray into this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        return pool.submit(function, *args).result(timeout=240)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _train_twice(tiny: Path, banks: Path) -> tuple[int, int]:
    """Here, then on Ray with a worker killed: memories that were trained there, and workers."""
    run = partial(train, memories=MEMORIES, model=str(tiny), embedder=f"base:{tiny}", settings=LONG)
    run(banks / "local", fitter=LocalFitter)
    fitters: list[RayFitter] = []

    def on_ray(path: Path, settings: Recipe, _trust: bool) -> RayFitter:
        fitters.append(RayFitter(path, settings, cluster=RayCluster(2)))
        return fitters[0]

    def kill(done: int, _total: int, _last: object) -> None:
        if done == 1:
            os.kill(fitters[0].pids[0], signal.SIGKILL)

    report = run(banks / "ray", fitter=on_ray, progress=kill)
    return len(report.trained), len(fitters[0].pids)


def _train_what_is_not_there(tiny: Path) -> None:
    fitter = RayFitter(tiny, msgspec.structs.replace(QUICK, modules=("fc1",)), cluster=RayCluster(1))
    with closing(fitter.fit(MEMORIES)) as fits:
        list(fits)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    """Workers share two cores or more: each has as many threads as the local run, which has one."""
    trained, workers = _alone(_train_twice, tiny, tmp_path)
    assert trained == len(MEMORIES)
    assert workers == 3, "one more than workers: it stands in for the dead one"
    assert adapters(tmp_path / "ray") == adapters(tmp_path / "local")
    assert verify(tmp_path / "ray", linear_shapes(tiny)) == []


@pytest.mark.slow
def test_what_a_worker_raises_is_raised_here(tiny: Path) -> None:
    with pytest.raises(ModelError, match="fc1"):
        _alone(_train_what_is_not_there, tiny)
