"""An output file: in order, continued after a kill, refused when it belongs to another input."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from vllm_mega.batch.lines import CHAT, Job, Reply
from vllm_mega.batch.output import BatchOutput, answer_in_order, finished
from vllm_mega.errors import ConfigError

JOBS = [Job(n, CHAT, {}, f"question {n}") for n in range(5)]


def reply(job: Job) -> Reply:
    return Reply(200, {"choices": [{"message": {"content": f"answer to {job.prompt}"}}], "mega": {}})


def write(path: Path, jobs: Sequence[Job], size: int = 0) -> None:
    with BatchOutput(path, size) as output:
        output.add(jobs, [reply(job) for job in jobs])


def ids(path: Path) -> list[int]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_nothing_yet(tmp_path: Path) -> None:
    assert finished(tmp_path / "none", JOBS) == (0, 0)


@pytest.mark.parametrize("torn", [0, 1, 20, 10_000])
def test_goes_on_behind_the_last_whole_line(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "out"
    write(path, JOBS[:2])
    whole = path.stat().st_size
    write(path, JOBS[2:3], whole)
    third = path.read_bytes()[whole:]
    path.write_bytes(path.read_bytes()[:whole] + third[: min(torn, len(third) - 1)])

    done, size = finished(path, JOBS)
    assert (done, size) == (2, whole)
    write(path, JOBS[done:], size)
    assert ids(path) == [0, 1, 2, 3, 4]
    assert finished(path, JOBS) == (5, path.stat().st_size)


def test_every_cut_of_a_file_is_continued_to_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, JOBS)
    wanted = path.read_bytes()
    for cut in range(0, len(wanted), 7):
        path.write_bytes(wanted[:cut])
        done, size = finished(path, JOBS)
        write(path, JOBS[done:], size)
        assert path.read_bytes() == wanted


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (['{"id": 7, "prompt": "question 0"}'], "line 1 does not answer"),
        (['{"id": 0, "prompt": "another"}'], "line 1 does not answer"),
        (["[]"], "line 1 does not answer"),
        (["not json"], "line 1 is not JSON"),
        ([f'{{"id": {n}, "prompt": "question {n}"}}' for n in range(6)], "more than the 5 lines"),
    ],
)
def test_a_foreign_file_is_refused_and_kept(tmp_path: Path, lines: list[str], found: str) -> None:
    path = tmp_path / "out"
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=found):
        finished(path, JOBS)
    assert path.read_bytes() == before


def test_overwriting_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, JOBS)
    write(path, JOBS[:1])
    assert ids(path) == [0]


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        BatchOutput(tmp_path / "no" / "folder", 0)


async def run(delays: Sequence[float], at_once: int, chunk: int) -> tuple[list[list[int]], int]:
    """What is handed on, and how many were under way at most."""
    handed: list[list[int]] = []
    running = most = 0

    async def answer(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(delays[n])
        running -= 1
        return n * n

    def done(jobs: Sequence[int], answers: Sequence[int]) -> None:
        assert list(answers) == [n * n for n in jobs]
        handed.append(list(jobs))

    await answer_in_order(range(len(delays)), answer, done, at_once=at_once, chunk=chunk)
    return handed, most


async def test_answers_come_in_order_and_in_chunks() -> None:
    handed, most = await run([0.02, 0.0, 0.01, 0.0, 0.03, 0.0, 0.0], at_once=3, chunk=2)
    assert handed == [[0, 1], [2, 3], [4, 5], [6]]
    assert most == 3


async def test_no_jobs() -> None:
    assert await run([], at_once=3, chunk=2) == ([], 0)


async def test_a_failure_stops_the_others() -> None:
    cancelled: list[int] = []

    async def answer(n: int) -> int:
        if n == 1:
            raise RuntimeError("the engine is dead")
        try:
            await asyncio.sleep(0 if n == 0 else 60)
        except asyncio.CancelledError:
            cancelled.append(n)
            raise
        return n

    handed: list[int] = []
    with pytest.raises(RuntimeError, match="dead"):
        await answer_in_order(
            range(9), answer, lambda jobs, _: handed.extend(jobs), at_once=4, chunk=1
        )  # fmt: skip
    assert handed == [0]
    assert set(cancelled) <= {2, 3, 4}
