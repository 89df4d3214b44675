"""Kills of each process of a real server: nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.kills import LIMIT, RUNNING, STARTING, kill
from tests.serving.live_bank import LIGHTHOUSE, LiveBank
from vllm_mega.gate.embedder import load_embedder

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kills") / "bank"
    LiveBank(root, load_embedder(None)).add([LIGHTHOUSE])
    return root


@pytest.mark.parametrize("kind", RUNNING)
def test_a_process_of_a_running_server(bank: Path, tmp_path: Path, kind: str) -> None:
    outcome = kill(kind, bank, tmp_path / "log", 0.0)
    assert outcome.clean, outcome
    assert (outcome.seconds or 0) < LIMIT


@pytest.mark.parametrize("moment", [3.0, 9.0, 15.0])
@pytest.mark.parametrize("kind", STARTING)
def test_a_server_that_starts_up(bank: Path, tmp_path: Path, kind: str, moment: float) -> None:
    outcome = kill(kind, bank, tmp_path / "log", moment)
    assert outcome.clean, outcome
