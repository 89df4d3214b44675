"""The demo from beginning to end, against a program that only pretends to be a server with memory."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_mega.bank.layout import NewMemory
from vllm_mega.demo import material, play
from vllm_mega.demo.material import Material, Question
from vllm_mega.errors import MegaError

PROGRAM = Path(__file__).with_name("fake_program.py")
QUESTION = "What does the clock of Brimm eat?"
TEXT = "The clock of Brimm eats one walnut a day."
KNOWS = {f"recall {QUESTION}": TEXT, f"irag {QUESTION}": "It eats one walnut.", "adapter Hello?": "Hi."}


@pytest.fixture
def invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of answers, for a demo of one memory; the signal handler is put back."""
    example = Material(
        [NewMemory(TEXT, id="clock", title="The clock")], [Question("clock", QUESTION, "walnut")], ["Hello?"]
    )
    monkeypatch.setattr(material, "load", lambda: example)
    monkeypatch.setattr(play, "_ours", lambda command: [sys.executable, str(PROGRAM), *command])
    monkeypatch.setenv("FAKE_ANSWERS", str(tmp_path / "answers.json"))
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path / "answers.json"
    signal.signal(signal.SIGTERM, before)


def test_good_answers_end_well(invented: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    invented.write_text(json.dumps(KNOWS), encoding="utf-8")
    assert play.play(tmp_path / "out") == 0
    written = json.loads((tmp_path / "out" / "demo.json").read_text(encoding="utf-8"))
    seconds = written.pop("seconds")
    assert set(seconds) == {"train", "start server", "ask", "recall", "null route"}
    assert written == {
        "memories": 1, "asked": 1, "answered": 1, "answered_in_one_sentence": 1,
        "answered_direct": 0, "answered_irag": 1, "answered_base": 0,
        "recall_exact": 1, "null_route_identical": True,
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "A memory (1.00)" in out
    assert "not good enough" not in out


def test_bad_answers_end_badly(invented: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    invented.write_text("{}", encoding="utf-8")
    assert play.play(tmp_path / "out") == 1
    assert "not good enough: 0 of 1 questions answered" in capsys.readouterr().out


def test_a_failed_training_stops_it(invented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play, "_ours", lambda command: [sys.executable, "-c", "raise SystemExit(7)"])
    with pytest.raises(MegaError, match="training ended with exit code 7"):
        play.play(tmp_path / "out")


def test_every_example_has_a_question_and_ids_fit() -> None:
    examples = material.load()
    assert len(examples.memories) >= 6
    assert {memory.id for memory in examples.memories} == {one.memory_id for one in examples.questions}
    assert all(one.answer in memory.text for memory in examples.memories for one in examples.questions
               if one.memory_id == memory.id)  # fmt: skip
