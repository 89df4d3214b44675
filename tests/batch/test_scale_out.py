"""Files of jobs on workers of a real Ray; the engines are fakes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import pytest

from tests.batch.fake_engine import FakeEngine, fake_engine, job, no_engine
from vllm_mega.batch.lines import Job, Reply
from vllm_mega.batch.lots import divided, packed_jobs, packed_replies, unpacked_jobs, unpacked_replies
from vllm_mega.batch.output import BatchOutput, answer_in_order, finished
from vllm_mega.batch.scale_out import Start, answered
from vllm_mega.batch.worker_engine import BIND, THREADS, EngineStart
from vllm_mega.config import MegaSettings
from vllm_mega.errors import BatchError, ConfigError
from vllm_mega.ray_cluster import RayCluster

T = TypeVar("T")
SPAWN = get_context("spawn")


def test_lots_have_all_jobs_in_their_order_and_something_for_each_worker() -> None:
    for number in (1, 2, 31, 64, 65, 100):
        jobs = [job(n) for n in range(number)]
        lots = list(divided(jobs, 2))
        assert [one for lot in lots for one in lot] == jobs
        assert len(lots) >= min(2, number)
        assert max(map(len, lots)) <= 32


def test_what_goes_between_processes_comes_back_as_it_was() -> None:
    body = {"seed": 2**64 - 1, "temperature": 0.1 + 0.2, "text": "é\u2028\x00", "none": None, "list": [1, {}]}
    jobs = [Job("1", "/v1", body, None), Job(1, "/v1", {}, "?", Reply.refused("no"))]
    assert unpacked_jobs(packed_jobs(jobs)) == jobs
    replies = [Reply(200, body), Reply.refused("no")]
    assert unpacked_replies(packed_replies(replies)) == replies


def start(**given: object) -> EngineStart:
    return EngineStart("/nowhere", ["--max-loras", "3"], MegaSettings(bank="bank"), given)


def test_engines_share_the_cores_and_bind_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(THREADS, raising=False)
    monkeypatch.delenv(BIND, raising=False)
    assert start().environment(6) | {THREADS: "6", BIND: "nobind"} == start().environment(6)
    assert start(tensor_parallel_size=2).environment(6)[THREADS] == "3"
    assert start(tensor_parallel_size=2).environment(1)[THREADS] == "1"
    monkeypatch.setenv(THREADS, "5")
    told = start()
    monkeypatch.delenv(THREADS)
    assert told.environment(6)[THREADS] == "5", "of the command, not of the worker"
    monkeypatch.setenv(BIND, "0,1")
    with pytest.raises(ConfigError, match=f"{BIND}=0,1 would put the engines of all workers"):
        start()


async def test_a_host_without_the_model_is_told(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    here = EngineStart(str(model), [], MegaSettings(bank="bank"), {})
    model.rmdir()
    with pytest.raises(ConfigError, match=f"there is no {model}, which all hosts need"):
        async with here(1):
            pass


def alone(function: Callable[..., T], *args: object) -> T:
    """In a process of its own, as `vllm-mega query` is one: others here may have imported Ray."""
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        return pool.submit(function, *args).result(timeout=500)


def answer_here(jobs: Sequence[Job], path: Path, log: Path) -> None:
    """As a run alone does."""
    with BatchOutput(path, 0) as output:
        asyncio.run(answer_in_order(jobs, FakeEngine(log).answer, output.add, at_once=9, chunk=4))


def answer_on(cluster: RayCluster, jobs: Sequence[Job], path: Path, start: Start) -> None:
    """What is missing in the file at `path`, as the command does."""
    done, size = finished(path, jobs)
    with BatchOutput(path, size) as output, closing(answered(cluster, start, jobs[done:])) as lots:
        for replies in lots:
            output.add(jobs[done : done + len(replies)], replies)
            done += len(replies)


def _answer_all(folder: Path, jobs: Sequence[Job]) -> str:
    """On two workers; then with an engine that does not start: what is told of it."""
    cluster = RayCluster(2)
    with cluster.connected():
        answer_on(cluster, jobs, folder / "out", partial(fake_engine, folder / "log"))
        with pytest.raises(BatchError) as told:
            answer_on(cluster, jobs, folder / "none", no_engine)
    return str(told.value)


def test_a_file_is_the_same_as_alone_though_a_worker_dies(tmp_path: Path) -> None:
    jobs = [job(n) for n in range(150)]
    jobs[7] = job(7, "refuse")
    jobs[8] = Job(8, "", {}, "question 8", Reply.refused("no request"))
    jobs[70] = job(70, f"die-once {tmp_path / 'died'}")

    told = alone(_answer_all, tmp_path, jobs)
    answer_here(jobs, tmp_path / "here", tmp_path / "other-log")  # the one that dies once has died
    assert (tmp_path / "out").read_bytes() == (tmp_path / "here").read_bytes()

    log = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    started = [words for words in log if words[0] == "started"]
    assert len(started) == 3, "two workers, and one in the place of the dead"
    assert {int(words[2]) for words in started} == {threads}
    assert len({words[1] for words in log if words[0] == "70"}) == 2
    assert "does not start: no bank for" in told
    assert "\n" not in told
    assert (tmp_path / "none").read_bytes() == b""


def _answer(folder: Path, jobs: Sequence[Job]) -> None:
    cluster = RayCluster(2)
    with cluster.connected():
        answer_on(cluster, jobs, folder / "out", partial(fake_engine, folder / "log"))


def _is_alive(pid: int) -> bool:
    try:
        return b"zombie" not in Path(f"/proc/{pid}/status").read_bytes()
    except FileNotFoundError:
        return False


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    jobs = [job(n) for n in range(400)]
    jobs[200] = job(200, f"wait {tmp_path / 'go'}")
    run = SPAWN.Process(target=_answer, args=(tmp_path, jobs))
    run.start()
    assert run.pid is not None
    until(lambda: finished(tmp_path / "out", jobs)[0] >= 64)
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    log = (tmp_path / "log").read_text()
    workers = {int(line.split()[1]) for line in log.splitlines()}
    until(lambda: not any(map(_is_alive, workers)))
    done, size = finished(tmp_path / "out", jobs)
    assert 64 <= done <= 200
    kept = (tmp_path / "out").read_bytes()[:size]

    (tmp_path / "go").touch()
    (tmp_path / "log").unlink()
    alone(_answer, tmp_path, jobs)
    asked = {line.split()[0] for line in (tmp_path / "log").read_text().splitlines()}
    assert asked == {"started", *map(str, range(done, 400))}
    answer_here(jobs, tmp_path / "here", tmp_path / "other-log")
    whole = (tmp_path / "out").read_bytes()
    assert whole == (tmp_path / "here").read_bytes()
    assert whole.startswith(kept)


@pytest.mark.slow
def test_workers_that_die_again_and_again_end_the_run(tmp_path: Path) -> None:
    jobs = [job(n) for n in range(64)]
    jobs[40] = job(40, f"die {tmp_path / 'x'}")
    with pytest.raises(BatchError, match=r"died 4 times.*--workers.*goes on behind"):
        alone(_answer, tmp_path, jobs)
