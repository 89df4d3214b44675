"""Retrieval in dialogue, with an embedder that needs no model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vllm_mega import cli
from vllm_mega.config import GateSettings, MegaSettings
from vllm_mega.errors import ConfigError
from vllm_mega.evaluation import dialogue, dialogue_data
from vllm_mega.gate import embedder as embedders
from vllm_mega.gate.embedder import FakeEmbedder

SETTINGS = MegaSettings(bank="none", gate=GateSettings(threshold=0.2))
MEMORIES = [
    {
        "1": {
            "time": "2023",
            "scene": "Play",
            "emotion": "Happy",
            "event": "Ann flew a red kite at the beach.",
        }
    },
    {"2": {"time": "2023", "scene": "Food", "emotion": "Sad", "event": "Ann burned the pancakes."}},
    {
        "7": {
            "time": "2023",
            "scene": "Play",
            "emotion": "Happy",
            "event": "Ben flew a red kite at the beach.",
        }
    },
]
DIALOGUE = {
    "dialogue": [
        "<BOD>\n",
        '<Ann>: "A red kite at the beach!"\n',
        '<Assistant>: "How fine!"\n',
        '<Ann>: "Will it fly?"\n',
        '<Assistant>: "It did before."\n',
        '"And then I make pancakes."\n',
        '<Assistant>: "Do not burn them."\n',
        "<EOD>\n",
    ],
    "test-turn": [4, 6],
    "relevant-id": [1, 2],
    "user-id": 1,
}
OTHER = {
    "dialogue": ['<Ben>: "The kite?"\n', '<Assistant>: "The red one."\n'],
    "test-turn": [1],
    "relevant-id": [7],
    "user-id": 2,
}


def lines(path: Path, values: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


@pytest.fixture
def madial(tmp_path: Path) -> tuple[Path, Path]:
    """A benchmark of two users, as MADial-Bench writes it: memories, dialogues."""
    return lines(tmp_path / "memories", MEMORIES), lines(tmp_path / "dialogues", [DIALOGUE, OTHER])


def test_madial_is_read_as_messages_of_users_with_memories_of_their_own(madial: tuple[Path, Path]) -> None:
    material = dialogue_data.read(*madial)
    assert [(m.namespace, m.id, m.text) for m in material.memories][1:] == [
        ("Ann", "2", "Ann burned the pancakes."),
        ("Ben", "7", "Ben flew a red kite at the beach."),
    ]
    first, second, third = material.turns
    assert [(t.dialogue, t.first, t.namespace) for t in material.turns] == [
        (0, True, "Ann"), (0, False, "Ann"), (1, True, "Ben"),
    ]  # fmt: skip
    assert first.messages == [
        {"role": "user", "content": "A red kite at the beach!"},
        {"role": "assistant", "content": "How fine!"},
        {"role": "user", "content": "Will it fly?"},
    ]
    assert second.messages[-1] == {"role": "user", "content": "And then I make pancakes."}, (
        "whose line is it?"
    )
    assert (first.relevant, third.relevant) == (frozenset("12"), frozenset("7"))
    assert material.published["BGE-M3"] == {"1": 0.279, "5": 0.553, "10": 0.705}


def test_recall_is_the_share_of_what_is_relevant() -> None:
    best = ["c", "a", "x", "b"]
    assert [dialogue.recall_at(frozenset("abd"), best, k) for k in (1, 2, 4, 10)] == [0, 1 / 3, 2 / 3, 2 / 3]


def test_the_dialogue_finds_what_the_last_message_does_not_name(tmp_path: Path) -> None:
    """Ann's "Will it fly?" is about the kite, but sounds like what she said of the rain."""
    rain = {"9": {"time": "2023", "scene": "Home", "emotion": "Sad", "event": "Rain will fall, Ann said."}}
    memories = lines(tmp_path / "m", [*MEMORIES, rain])
    dialogues = lines(tmp_path / "d", [{**DIALOGUE, "relevant-id": [1], "test-turn": [4]}, OTHER])
    report = dialogue.measure(dialogue_data.read(memories, dialogues), FakeEmbedder(256), SETTINGS)
    alone, both = report.ways["last user message alone"], report.ways["as configured"]
    assert (report.memories, report.dialogues, report.turns) == (4, 2, 2)
    assert ((alone.window, alone.dialogue), (both.window, both.dialogue)) == ((1, 0), (1, 8))
    assert alone.recall == {"1": 0.5, "5": 1.0, "10": 1.0}, "Ben has one memory, which is always the first"
    assert both.recall == both.all_turns == {"1": 1.0, "5": 1.0, "10": 1.0}
    assert (both.opened, both.right) == (1.0, 1.0)
    halves = [dialogue.is_held_out(number) for number in range(160)]
    assert halves.count(True) == 85


def test_no_dialogue_in_a_half_is_no_error(tmp_path: Path) -> None:
    material = dialogue_data.read(lines(tmp_path / "m", MEMORIES[2:]), lines(tmp_path / "d", [OTHER]))
    found = dialogue.measure(material, FakeEmbedder(), SETTINGS).ways["as configured"]
    assert sorted([found.tuned_half["1"], found.held_out_half["1"]]) == [0.0, 1.0]


def test_our_own_format(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    memories = lines(tmp_path / "m", [{"text": "A red kite.", "id": "kite"}, {"text": "A cold pancake."}])
    talk = [{"role": "user", "content": "A red what?"}]
    dialogues = lines(tmp_path / "d", [{"messages": talk, "relevant": ["kite"]}])
    monkeypatch.setattr(embedders, "load_embedder", lambda name: FakeEmbedder())
    words = ["--memories", str(memories), "--dialogues", str(dialogues), "--output", str(tmp_path / "out")]
    assert cli.main(["eval-dialogue", *words, "--dialogue", "2"]) == 0
    assert "written:" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "dialogue.json").read_text())
    assert found["ways"]["as configured"]["recall"] == {"1": 1.0, "5": 1.0, "10": 1.0}
    assert found["ways"]["as configured"]["dialogue"] == 2
    page = (tmp_path / "out" / "dialogue.md").read_text()
    assert "BGE-M3" not in page, "figures of another benchmark stand beside"
    assert "| as configured (window 1, dialogue 2) | 1.000 | 1.000 | 1.000 |" in page


def test_published_figures_stand_beside(madial: tuple[Path, Path]) -> None:
    page = dialogue.markdown(dialogue.measure(dialogue_data.read(*madial), FakeEmbedder(), SETTINGS))
    assert "| BGE-M3 (published) | 0.279 | 0.553 | 0.705 |" in page
    assert "held out R@1" in page
    widths = {line.count("|") for line in page.split("\n\n")[2].splitlines()}
    assert len(widths) == 1, "a row has another number of cells"


@pytest.mark.parametrize(
    ("memories", "dialogues", "message"),
    [
        (MEMORIES, [], "holds no dialogue"),
        (MEMORIES, [{**DIALOGUE, "relevant-id": [3]}, OTHER], "found the memories 3"),
        (MEMORIES, [{**DIALOGUE, "relevant-id": [7]}, OTHER], "found the memories 7"),
        (MEMORIES, [{**DIALOGUE, "relevant-id": []}, OTHER], "found no memory at all"),
        (MEMORIES, [DIALOGUE], "expected the name of one user in 'Ben flew"),
        (MEMORIES, [{**DIALOGUE, "dialogue": ["Hm."]}], "user 1 never speaks"),
        (MEMORIES, [{"messages": [], "relevant": ["a"], "mood": 1}], "unknown field `mood`"),
        ([{"text": "A kite.", "id": "a"}], [{"messages": [], "relevant": ["a"], "namespace": "n"}], "'n'"),
    ],
)
def test_bad_files(tmp_path: Path, memories: Sequence[Any], dialogues: Sequence[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dialogue_data.read(lines(tmp_path / "m", memories), lines(tmp_path / "d", dialogues))
