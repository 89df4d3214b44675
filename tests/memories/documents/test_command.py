from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.tiny import ALL as MODULES
from tests.training.tiny import save_tiny
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.reading import list_memories
from vllm_mega.bank.catalog.records import Memory
from vllm_mega.cli import main
from vllm_mega.memories import get_entry
from vllm_mega.memories.documents.division import MOST_TOKENS

TEXT = "# red kettle\n\nThe red kettle sings at dawn.\n\n## geese\n\nNine geese count copper.\n"
"""In the few words of the tiny model."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def command(tmp_path: Path, tiny: Path) -> list[str]:
    """The command line, for four steps each."""
    (tmp_path / "kettle.md").write_text(TEXT)
    return [
        "remember", str(tmp_path / "kettle.md"), "--bank", str(tmp_path / "bank"), "--model", str(tiny),
        "--embedder", f"base:{tiny}", "--rank", "4", "--layers", "1", "--modules", ",".join(MODULES),
        "--max-steps", "4", "--batch", "3",
    ]  # fmt: skip


def stored(bank: Path) -> list[Memory]:
    """The memories, as they stand in their document; the catalog adds those of one change by their names."""
    with open_catalog(bank) as catalog:
        return sorted(list_memories(catalog).memories, key=_place)


def _place(memory: Memory) -> int:
    return (memory.source and memory.source.start) or 0


def test_a_dry_run_shows_the_memories_and_writes_nothing(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["ID", "TOKENS", "TITLE", "TEXT"]
    assert out[1].startswith("+  kettle-")
    assert out[1].endswith("red kettle          The red kettle sings at dawn.")
    assert out[2].split()[2] == "5", "words and a full stop, as the base model counts them"
    assert out[3] == f"{tmp_path / 'kettle.md'}: 2 memories, 2 new"
    assert not (tmp_path / "bank").exists()


def test_remember_again_and_forget(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, bank = tmp_path / "kettle.md", tmp_path / "bank"
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"{path}: 2 memories, 2 new" in out
    assert "trained 2 memories" in out
    first = stored(bank)
    assert [memory.state for memory in first] == ["ready", "ready"]
    assert [memory.source.file for memory in first if memory.source] == [str(path)] * 2
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"{path}: 2 memories, 2 as they were" in out
    assert "nothing to train, 2 were there already" in out
    assert stored(bank) == first
    path.write_text(TEXT.replace("## geese", "A lamp burned for nine nights.\n\n## geese"))
    assert main(command) == 0
    assert "trained 1 memories" in capsys.readouterr().out
    kettle, geese = stored(bank)
    assert geese == first[1]
    assert (kettle.id, kettle.newest, kettle.current) == (first[0].id, 2, 2)
    path.write_text("# red kettle\n\nThe red kettle sings at dawn.\n\nA lamp burned for nine nights.\n")
    assert main(command) == 0
    assert "1 with other links, 1 forgotten" in capsys.readouterr().out
    (left,) = stored(bank)
    with open_catalog(bank) as catalog:
        assert get_entry(catalog, left.name).links == ()
    assert main(["bank", "forget", "--bank", str(bank), "--source", str(path)]) == 0
    assert "forgot default/kettle-" in capsys.readouterr().out
    assert stored(bank) == []


def test_without_training_texts_are_kept(
    command: list[str], tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = str(tmp_path / "bank")
    assert main([*command, "--no-train"]) == 1
    assert "is not a bank" in capsys.readouterr().err
    assert main(["bank", "create", "--bank", bank, "--model", str(tiny), "--embedder", f"base:{tiny}"]) == 0
    assert main([*command, "--no-train", "--tag", "kitchen", "--source", "kettle"]) == 0
    assert "kettle: 2 memories, 2 new" in capsys.readouterr().out
    found = stored(tmp_path / "bank")
    assert [(one.state, one.tags, one.source and one.source.file) for one in found] == [
        ("pending", ("kitchen",), "kettle")
    ] * 2
    assert main([*command, "--source", "kettle"]) == 0
    assert [one.state for one in stored(tmp_path / "bank")] == ["ready"] * 2


def test_what_cannot_be_trained_changes_nothing(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    before = stored(tmp_path / "bank")
    (tmp_path / "kettle.md").write_text("# red kettle\n\nThe red </s> sings at dawn.\n")
    assert main(command) == 1
    assert "1 of 1 memories cannot be trained" in capsys.readouterr().err
    assert stored(tmp_path / "bank") == before


def test_help_tells_the_size(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["remember", "--help"])
    assert f"most tokens of a memory (default: {MOST_TOKENS})" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--namespace", "../x"], "namespace must be 1 to 128"),
        (["--tag", " x"], "no white space around them"),
        (["--tokens", "4"], "at most 16 to 1024 tokens, not 4"),
        (["none.md"], "cannot read none.md"),
    ],
)
def test_mistakes_end_before_anything_is_made(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    first, path, *rest = command
    assert main([first, path, *more, *rest] if message.startswith("cannot") else [*command, *more]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bank").exists()
