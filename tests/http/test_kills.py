"""Kills of each process of a real server: nothing is left."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from loadtests.kills import LIMIT, RUNNING, STARTING, Outcome, kill
from tests.http.live_bank import LIGHTHOUSE, LiveBank
from vllm_mega.gate.embedder import load_embedder

pytestmark = [pytest.mark.engine, pytest.mark.slow]
MOMENTS = (3.0, 9.0, 15.0)
Case = tuple[str, float]
"""What is killed, and after how many seconds of a start; a running server: 0."""
CASES: list[Case] = [
    *((kind, 0.0) for kind in RUNNING), *((kind, moment) for kind in STARTING for moment in MOMENTS)
]  # fmt: skip


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kills") / "bank"
    LiveBank(root, load_embedder(None)).add([LIGHTHOUSE])
    return root


@pytest.fixture(scope="module")
def outcomes(bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Case, Future[Outcome]]]:
    """Two servers at a time: most of a start is the work of one process."""
    logs = tmp_path_factory.mktemp("logs")
    with ThreadPoolExecutor(2) as pool:
        yield {case: pool.submit(kill, case[0], bank, logs / f"{case}.log", case[1]) for case in CASES}


@pytest.mark.parametrize("kind", RUNNING)
def test_a_process_of_a_running_server(outcomes: dict[Case, Future[Outcome]], kind: str) -> None:
    outcome = outcomes[kind, 0.0].result()
    assert outcome.clean, outcome
    assert (outcome.seconds or 0) < LIMIT


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", STARTING)
def test_a_server_that_starts_up(outcomes: dict[Case, Future[Outcome]], kind: str, moment: float) -> None:
    outcome = outcomes[kind, moment].result()
    assert outcome.clean, outcome
