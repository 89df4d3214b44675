"""The story of a memory: told act by act, ended by the first that fails; and played on a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from rich.console import Console

from loadtests import story
from loadtests.acts import ACTS
from loadtests.machine import this_machine
from loadtests.stage import expect
from vllm_mega.errors import MegaError


def first(stage: Any) -> str:
    return "[bold] is said as it is"


def second(stage: Any) -> str:
    expect(stage.id == 7, f"id {stage.id}")
    return "never"


def unheard(stage: Any) -> str:
    raise openai.OpenAIError("nobody answers")


class Seven:
    id = 8


def test_the_first_act_that_fails_is_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    stage: Any = Seven()
    played = story.play([first, second, first], stage, Console())
    assert [(act.act, act.good) for act in played] == [("first", True), ("second", False)]
    told = capsys.readouterr().out
    assert "[bold] is said as it is" in told
    assert "FAILED: MegaError: id 8" in told
    (lost,) = story.play([unheard, first], stage, Console())
    assert lost.said == "OpenAIError: nobody answers"


@pytest.mark.parametrize(
    ("live", "good", "is_good"),
    [(19.0, True, True), (21.0, True, False), (0.0, True, False), (19.0, False, False)],
)
def test_a_story_is_good_when_all_acts_are_and_the_adapter_came_soon(
    live: float, good: bool, is_good: bool
) -> None:
    acts = (story.Played("add", 0.1, True, ""), story.Played("forget", 0.1, good, ""))
    result = story.Result("now", this_machine("float32"), 30.0, live, 20.0, acts)
    assert result.good == is_good
    assert ("forget (failed)" in [*story.table(result).columns[0].cells]) == (not good)


def test_what_is_not_so_is_said() -> None:
    expect(True, "nothing")
    with pytest.raises(MegaError, match="found 3"):
        expect(False, "found 3")


@pytest.mark.engine
@pytest.mark.slow
def test_the_whole_story(tmp_path: Path) -> None:
    """How soon the adapter comes is for a quiet machine to say."""
    output = tmp_path / "story.json"
    assert story.PROGRAM.main(["--output", str(output), "--most-live", "300"]) == 0, output.read_text()
    result = msgspec.convert(json.loads(output.read_text()), story.Result)
    assert [act.act for act in result.acts] == [act.__name__ for act in ACTS]
