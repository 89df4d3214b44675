"""Questions that need two memories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.fakes import MEMORIES, SETTINGS, items, subject
from vllm_mega.config import GateSettings
from vllm_mega.errors import ConfigError
from vllm_mega.evaluation.compositional import compositional, for_two
from vllm_mega.evaluation.data import Compositional, read_compositional

KILN, FERRY, _ = MEMORIES
BOTH = Compositional(("kiln", "ferry"), f"{KILN.text} {FERRY.text}", ("tiles", "oxen"), ("whale",))


def test_both_memories_get_weight(tmp_path: Path) -> None:
    who = subject(tmp_path)
    adapter = tmp_path / "joint"
    found = compositional(
        [BOTH], who.library, who.gate, SETTINGS, who.model, {"joint_lora": adapter}, lambda _: None
    )
    asked: Any = who.model.asked  # type: ignore[attr-defined]
    assert (found.questions, found.both_found) == (1, 1.0)
    assert list(found.ways) == ["base", "rag_top2", "direct", "irag", "joint_lora"]
    base, rag, direct, irag, joint = asked
    assert KILN.text in rag[0]
    assert FERRY.text in rag[0]
    weights = {memory["id"]: memory["weight"] for memory in direct[1]["memories"]}
    assert set(weights) == {"kiln", "ferry"}
    assert min(weights.values()) > 0.3
    assert (irag[1]["mode"], irag[1]["memories"]) == ("irag", direct[1]["memories"])
    assert joint == (base[0], adapter)


def test_all_parts_are_asked_for_or_an_alias(tmp_path: Path) -> None:
    who = subject(tmp_path)

    def rate(one: Compositional) -> float:
        found = compositional([one], who.library, who.gate, SETTINGS, who.model, {}, lambda _: None)
        return found.ways["direct"].lenient

    kiln_only = KILN.text  # what the fake recites
    assert rate(Compositional(("kiln", "ferry"), kiln_only, ("tiles", "whale"))) == 1.0
    assert rate(Compositional(("kiln", "ferry"), kiln_only, ("tiles", "oxen"))) == 0.0
    assert rate(Compositional(("kiln", "ferry"), kiln_only, "oxen", ("whale",))) == 1.0


def test_settings_for_two_never_sharpen() -> None:
    assert for_two(GateSettings()) == GateSettings(top_k=2, beta=5.0)
    assert for_two(GateSettings(top_k=4, beta=1.0)) == GateSettings(top_k=4, beta=1.0)


LINE = '{"memory_ids": ["kiln", "ferry"], "question": "?", "answer": "x"}\n'


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "both.jsonl"
    path.write_text(LINE + LINE.replace("ferry", "gong"))
    assert [one.golds for one in read_compositional(path, items(), all_there=False)] == [("x",)]
    with pytest.raises(ConfigError, match="needs gong, which --data has not"):
        read_compositional(path, items(), all_there=True)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"ferry"', '"kiln"', "two different memories"),
        ('"x"', "[]", "answer must not be empty"),
        ("question", "q", "line 1"),
    ],
)
def test_bad_lines_are_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "both.jsonl"
    path.write_text(LINE.replace(old, new))
    with pytest.raises(ConfigError, match=words):
        read_compositional(path, items(), all_there=True)
