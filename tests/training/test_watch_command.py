"""`vllm-mega train --watch` as a process: what it tells, how it ends, and what a kill costs."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from tests.banks import adapters, events
from tests.forks import PROCESSES
from tests.training.tiny import KETTLE
from vllm_mega.bank.catalog.catalog import create_catalog, open_catalog
from vllm_mega.bank.catalog.changes import put
from vllm_mega.bank.catalog.known import list_jobs
from vllm_mega.bank.catalog.records import BankSettings, Draft, JobStatus
from vllm_mega.bank.identity import text_digest
from vllm_mega.bank.layout import BaseModelInfo, EmbedderInfo
from vllm_mega.cli import main
from vllm_mega.models import fingerprint
from vllm_mega.training.run.watch import Watch


@pytest.fixture
def bank(tmp_path: Path, tiny: Path) -> Path:
    """A bank with a memory that waits."""
    settings = BankSettings(BaseModelInfo(str(tiny), fingerprint(tiny)), EmbedderInfo("nowhere", "e", 4))
    with create_catalog(tmp_path / "bank", settings) as catalog:
        put(catalog, [Draft(KETTLE, text_digest(KETTLE))], "somebody")
    return tmp_path / "bank"


def words(bank: Path) -> list[str]:
    return [
        "train", "--bank", str(bank), "--watch", "--poll", "0.05", "--max-steps", "4", "--layers", "1",
    ]  # fmt: skip


def _run(argv: Sequence[str], out: Path, pause: float) -> None:
    """In a process of its own: watch, with a pause before every step."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
    torch.set_num_threads(1)
    sys.stdout = out.open("w")
    ours = Watch._each_step

    def each_step(self: Watch, steps: int) -> None:
        time.sleep(pause)
        ours(self, steps)

    Watch._each_step = each_step  # type: ignore[method-assign]
    sys.exit(main(argv))


@pytest.fixture
def started(bank: Path, tmp_path: Path) -> Iterator[list[BaseProcess]]:
    processes: list[BaseProcess] = []
    yield processes
    for process in processes:
        process.kill()
        process.join()


def start(started: list[BaseProcess], bank: Path, pause: float) -> BaseProcess:
    """A watch whose lines go into the file `told` beside the bank."""
    process = PROCESSES.Process(target=_run, args=(words(bank), bank.with_name("told"), pause))
    process.start()
    started.append(process)
    return process


def wait_for_lease(bank: Path) -> JobStatus:
    with open_catalog(bank) as catalog:
        while (job := list_jobs(catalog)[0]).state != "leased":
            time.sleep(0.02)
    return job


def kinds(bank: Path) -> list[str]:
    return [kind for _, kind in events(bank) if kind in ("leased", "returned", "ready")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_trains_until_it_is_told_to_stop(bank: Path, started: list[BaseProcess], number: int) -> None:
    process = start(started, bank, 0)
    while not adapters(bank):
        time.sleep(0.05)
    os.kill(process.pid or 0, number)
    process.join(30)
    assert process.exitcode == 0
    lines = bank.with_name("told").read_text().splitlines()
    assert lines[0].startswith(f"watching {bank}: ")
    assert lines[0].endswith("8 side by side")
    assert lines[1] == "training default/kettle"
    assert lines[2].startswith("default/kettle: NOT recalled word for word after 4 steps")
    assert lines[3:] == ["stopped: 1 trained, 0 failed"]


def test_a_stop_amid_training_gives_the_job_back(bank: Path, started: list[BaseProcess]) -> None:
    process = start(started, bank, 0.5)
    wait_for_lease(bank)
    process.terminate()
    process.join(30)
    assert process.exitcode == 0
    told = bank.with_name("told").read_text().splitlines()
    assert told[2:] == ["broken off, and waiting again: default/kettle", "stopped: 0 trained, 0 failed"]
    with open_catalog(bank) as catalog:
        assert [(job.state, job.attempts) for job in list_jobs(catalog)] == [("waiting", 0)]


def test_what_a_killed_one_had_is_trained_by_the_next(bank: Path, started: list[BaseProcess]) -> None:
    killed = start(started, bank, 60)
    job = wait_for_lease(bank)
    assert job.owner.startswith(f"process {killed.pid} on ")
    killed.kill()
    killed.join()
    start(started, bank, 0)
    while not adapters(bank):
        time.sleep(0.05)
    assert kinds(bank) == ["leased", "returned", "leased", "ready"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["--input", "in.jsonl"], "leave out --input"),
        (["--workers", "2"], "leave out --workers"),
        (["--dry-run"], "leave out --dry-run"),
        (["--embedder", "e"], "leave out --embedder"),
        (["--poll", "0"], r"--poll must be 0.01..3600 seconds, got 0"),
        (["--poll", "nan"], r"--poll must be 0.01..3600 seconds, got nan"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    bank: Path, capsys: pytest.CaptureFixture[str], change: list[str], reason: str
) -> None:
    assert main([*words(bank), *change]) == 1
    assert reason in capsys.readouterr().err
    assert kinds(bank) == []


def test_a_poll_alone_is_refused(bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--bank", str(bank), "--poll", "1"]) == 1
    assert "--poll needs --watch" in capsys.readouterr().err
