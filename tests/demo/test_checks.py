"""What counts, and the verdict."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from vllm_mega.demo.checks import Asked, Recalled, Reply, Result, Unrelated, judge


def reply(text: str, *titles: str) -> Reply:
    return Reply(text, tuple(text.encode()), tuple((title, 1.0) for title in titles))


def asked(irag: str, direct: str = "no", base: str = "no") -> Asked:
    return Asked("What does it run on?", "cold tea", reply(base), reply(direct), reply(irag))


@pytest.mark.parametrize(
    ("text", "exact"),
    [("One  bell\nrang.", True), ("One bell rang", False), ("one bell rang.", False), ("One bell.", False)],
)
def test_recall_is_word_for_word(text: str, exact: bool) -> None:
    assert Recalled("Bell", "One bell rang.", reply(text)).exact is exact


def test_identical_means_every_token_and_no_memory() -> None:
    assert Unrelated("p", reply("Paris"), reply("Paris")).identical
    assert not Unrelated("p", reply("Paris", "A memory"), reply("Paris")).identical
    assert not Unrelated("p", Reply("Paris", (1, 2)), Reply("Paris", (1, 3))).identical


def test_judge_counts_both_ways_as_answered() -> None:
    result = judge(
        asked=[
            asked(irag="He drinks it. It is cold tea."),
            asked(irag="no", direct="cold tea"),
            asked(irag="no", base="cold tea"),
        ],
        recalled=[Recalled("Bell", "One bell.", reply("One bell."))],
        unrelated=[Unrelated("p", reply("Paris"), reply("Paris"))],
        seconds={"train": 1.234},
    )
    assert result == Result(1, 3, 2, 1, 1, 1, 1, 1, True, {"train": 1.2})


def good() -> Result:
    return Result(10, 10, 8, 8, 0, 0, 0, 8, True, {})


def test_enough_is_enough() -> None:
    assert good().complaints == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"answered": 7}, "7 of 10 questions answered"),
        ({"asked": 0, "answered": 0}, "0 of 0 questions answered"),
        ({"recall_exact": 7}, "7 of 10 memories recalled word for word"),
        (
            {"null_route_identical": False},
            "an unrelated prompt was not answered exactly as by the base model",
        ),
    ],
)
def test_too_little_is_said(change: dict[str, object], complaint: str) -> None:
    assert msgspec.structs.replace(good(), **change).complaints == [complaint]


def test_nothing_compared_is_not_identical() -> None:
    assert not judge([], [], [], {}).null_route_identical


def test_written_as_json(tmp_path: Path) -> None:
    good().write(tmp_path / "demo.json")
    assert msgspec.json.decode((tmp_path / "demo.json").read_bytes(), type=Result) == good()
