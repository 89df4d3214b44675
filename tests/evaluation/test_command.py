"""`vllm-mega eval`, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_mega import cli
from vllm_mega.demo.material import EXAMPLES, MEMORIES_FILE
from vllm_mega.evaluation.report import NAMES


def _arguments(output: Path) -> list[str]:
    files = [
        "--questions",
        str(EXAMPLES / "questions.jsonl"),
        "--unrelated",
        str(EXAMPLES / "unrelated.jsonl"),
    ]
    return ["eval", "--data", str(MEMORIES_FILE), *files, "--output", str(output), "--limit", "2"]


@pytest.mark.slow
@pytest.mark.engine
def test_two_memories_from_text_to_report(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vllm_mega", *_arguments(tmp_path)]
    for _ in range(2):  # the second run finds its memories trained
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    assert "2 memories" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["n_memories"] == 2
    assert set(report["qa"]) == set(NAMES)
    assert report["qa_lenient"]["direct"] > report["qa_lenient"]["base"]
    assert report["recall"]["cosine"] > 0.9
    assert report["gate"]["top1"] == 1.0
    assert report["null_route"]["identical"] is True
    assert 0 < report["cost"]["share_of_base"] < 0.01
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--questions": None}, "has no questions"),
        ({"--data": "none.jsonl"}, "cannot read none.jsonl"),
        ({"--limit": "0"}, "--limit must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str | None], words: str
) -> None:
    arguments = _arguments(tmp_path)
    for name, value in change.items():
        at = arguments.index(name)
        arguments[at : at + 2] = [] if value is None else [name, value]
    assert cli.main(arguments) == 1
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
