"""What the checks at start cost: next to nothing, and no import that would not come anyway."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MOST = 0.2
"""Seconds of a core; measured 0.001 to 0.04 a part."""


def test_checks_at_start_are_cheap_and_import_nothing(repo: Path) -> None:
    command = [sys.executable, "-m", "tests.contract.start_cost"]
    run = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    parts = json.loads(run.stdout[run.stdout.index("{") :])
    assert len(parts) == 8
    assert {part: one["imported"] for part, one in parts.items() if one["imported"]} == {}
    assert {part: one["seconds"] for part, one in parts.items() if one["seconds"] > MOST} == {}
