"""Leases while training goes on: renewed, given back, and taken from the dead."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bank.samples import BASE, EMBEDDER
from tests.banks import Item, make_bank
from vllm_mega.bank.catalog.catalog import Catalog, create_catalog, open_catalog
from vllm_mega.bank.catalog.forgetting import forget
from vllm_mega.bank.catalog.jobs import lease, take_back
from vllm_mega.bank.catalog.known import list_jobs
from vllm_mega.bank.catalog.records import BankSettings, MemoryName
from vllm_mega.bank.layout import NewMemory
from vllm_mega.training.run import leases
from vllm_mega.training.run.leases import held, is_dead, owner


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    create_catalog(tmp_path / "bank", BankSettings(BASE, EMBEDDER)).close()
    make_bank(tmp_path / "bank", [Item(NewMemory(f"Bell {n}.", id=f"bell-{n}")) for n in range(2)])
    with open_catalog(tmp_path / "bank") as opened:
        yield opened


def test_leases_are_renewed_as_long_as_somebody_trains(catalog: Catalog) -> None:
    jobs = lease(catalog, "one", 0.6, limit=2)
    with held(catalog, jobs, 0.6):
        forget(catalog, [MemoryName("default", "bell-1")], "somebody")
        end = time.monotonic() + 2
        while time.monotonic() < end:
            [job] = list_jobs(catalog)
            assert job.state == "leased"
            time.sleep(0.1)
        assert job.expires > jobs[0].expires
    [job] = list_jobs(catalog)
    assert job.state == "leased", "whoever held it has published, or lets it end"


def test_the_catalog_is_told_how_far_it_is(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "PROGRESS_S", 0.05)
    made = iter(range(5, 100000, 5))
    jobs = lease(catalog, "one", 60, limit=1)
    with held(catalog, jobs, 60, lambda: next(made)):
        end = time.monotonic() + 30
        while (steps := list_jobs(catalog)[0].steps) < 10:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert steps % 5 == 0
    [told, waiting] = list_jobs(catalog)
    assert (told.expires, waiting.steps) == (jobs[0].expires, 0), "no lease was due"


def test_what_is_broken_off_goes_back_and_is_no_attempt(catalog: Catalog) -> None:
    jobs = lease(catalog, "one", 60, limit=2)
    with pytest.raises(KeyboardInterrupt), held(catalog, jobs):
        raise KeyboardInterrupt
    assert [(job.state, job.attempts) for job in list_jobs(catalog)] == [("waiting", 0)] * 2


def test_only_processes_of_this_host_that_are_gone_are_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    gone = f"process {process.pid} on {socket.gethostname()}"
    assert owner() == f"process {os.getpid()} on {socket.gethostname()}"
    assert is_dead(gone)
    assert not is_dead(owner())
    assert not is_dead(f"process {process.pid} on another-host")
    assert not is_dead("ann")
    assert not is_dead(f"process x on {socket.gethostname()}")


def test_the_jobs_of_the_dead_are_free_at_once(catalog: Catalog) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    lease(catalog, f"process {process.pid} on {socket.gethostname()}", 600)
    lease(catalog, owner(), 600)
    take_back(catalog, is_dead, owner())
    assert [(job.id, job.state) for job in list_jobs(catalog)] == [
        ("bell-0", "waiting"),
        ("bell-1", "leased"),
    ]
