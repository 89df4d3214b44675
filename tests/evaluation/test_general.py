"""General ability: what is scored, with which memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.fakes import SETTINGS, items, subject
from vllm_mega.errors import ConfigError
from vllm_mega.evaluation.data import Choice, read_choices, read_paragraphs
from vllm_mega.evaluation.general import general_ability, general_ways
from vllm_mega.evaluation.model import OFF

# The fake finds shorter texts more probable.
CHOICES = [
    Choice("zzz qqq?", ("one", "two or three"), "one"),
    Choice("qqq zzz?", ("one", "two or three"), "two or three"),
]


def test_the_most_probable_option_is_the_answer(tmp_path: Path) -> None:
    who = subject(tmp_path)
    adapter = tmp_path / "joint"
    ways = general_ways(items(), who.gate, SETTINGS, {"joint_lora": adapter})
    known = items()[1].text
    found = general_ability(CHOICES, ["Nobody knows.", known], ways, who.model, lambda _: None)
    assert list(found) == ["base", "gated", "forced", "joint_lora"]
    assert {one.accuracy for one in found.values()} == {0.5}
    assert found["base"].log_likelihood == pytest.approx(-2.0)
    words = 2 + len(known.split())
    assert found["gated"].log_likelihood == pytest.approx(-2.0 - 1 / words)  # one paragraph meets a memory
    assert found["forced"].log_likelihood == pytest.approx(-2.0 - 2 / words)
    assert found["gated"].opened == pytest.approx(1 / 4)
    assert found["forced"].opened is None


def test_who_is_asked_what(tmp_path: Path) -> None:
    who = subject(tmp_path)
    ways = general_ways(items(), who.gate, SETTINGS, {})
    general_ability(CHOICES, ["Nobody knows."], ways, who.model, lambda _: None)
    asked: Any = who.model.asked  # type: ignore[attr-defined]
    assert asked[0] == ("Question: zzz qqq?\nAnswer: one", OFF)
    assert asked[4] == ("Nobody knows.", OFF)
    forced = [how["memories"][0]["id"] for _, how in asked[10:]]
    assert forced == ["kiln", "kiln", "ferry", "ferry", "kiln"]  # one memory after the other


@pytest.mark.parametrize("options", [["x"], ["x", "x"], ["y", "z"]])
def test_bad_choices_are_refused(tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "general.jsonl"
    path.write_text(f'{{"question": "?", "options": {options!r}, "answer": "x"}}'.replace("'", '"'))
    with pytest.raises(ConfigError, match="at least two, all different"):
        read_choices(path)


def test_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("One\nline.\n\n\nTwo.\n")
    assert read_paragraphs(path) == ["One line.", "Two."]
    path.write_text("\n\n")
    with pytest.raises(ConfigError, match="is empty"):
        read_paragraphs(path)
    path.write_bytes(b"One.\ncaf\xe9")
    with pytest.raises(ConfigError, match=r"text\.txt, line 2: bytes that are not UTF-8"):
        read_paragraphs(path)
    path.unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        read_paragraphs(path)
