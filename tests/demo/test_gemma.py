"""The demo on another real model than the default one, with no option but its name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gemma import resolve_gemma
from vllm_mega.bank.library import Library


@pytest.mark.slow
@pytest.mark.engine
def test_the_demo_on_gemma(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vllm_mega", "demo", "--model", str(resolve_gemma())]
    run = subprocess.run(
        [*command, "--output", str(tmp_path)], capture_output=True, text=True, timeout=570, check=False
    )
    result = json.loads((tmp_path / "demo.json").read_text())
    assert result["recall_exact"] == result["memories"] == 6, run.stdout
    assert result["answered_direct"] >= 10, run.stdout
    assert result["null_route_identical"]
    with Library(tmp_path / "bank") as library:
        versions = [library.version(row) for row in library.rows.values()]
    assert [version.training["recalled"] for version in versions] == [True] * 6
