from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from tests.banks import newest
from tests.training.tiny import ALL as MODULES
from tests.training.tiny import BELL, KETTLE, LAMP
from vllm_mega.cli import main


@pytest.fixture
def words(tmp_path: Path, tiny: Path) -> list[str]:
    """The command line, for three memories and four steps each."""
    lines = b"\n".join(msgspec.json.encode(memory) for memory in (KETTLE, LAMP, BELL))
    (tmp_path / "in.jsonl").write_bytes(lines)
    return [
        "train", "--bank", str(tmp_path / "bank"), "--input", str(tmp_path / "in.jsonl"),
        "--model", str(tiny), "--embedder", f"base:{tiny}", "--rank", "4", "--alpha", "2", "--layers", "1",
        "--modules", ", ".join(MODULES), "--learning-rate", "0.01", "--max-steps", "4", "--batch", "3",
        "--seed", "5", "--dtype", "float32",
    ]  # fmt: skip


def test_train_and_train_again(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--limit", "2"]) == 0
    out = capsys.readouterr().out
    assert "default/kettle: NOT recalled word for word" in out
    assert "trained 2 memories" in out
    assert "0 recalled word for word" in out
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "trained 1 memories" in out
    assert "2 were there already" in out
    assert main(words) == 0
    assert "nothing to train, 3 were there already" in capsys.readouterr().out
    versions = [newest(tmp_path / "bank", memory.id) for memory in (KETTLE, LAMP, BELL)]
    assert {(version.rank, version.training["seed"]) for version in versions} == {(4, 5)}


def test_it_is_told_whether_text_or_recipe_is_another(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    assert "trained again" not in capsys.readouterr().out
    changed = [msgspec.structs.replace(KETTLE, text="Nine geese count copper."), LAMP]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, changed)))
    assert main([*words, "--dry-run"]) == 0
    assert "memories: 1 to train (1 other text), 1 there already" in capsys.readouterr().out
    assert main(words) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("default/")]
    assert line.startswith("default/kettle: ")
    assert line.endswith("; trained again: other text")
    assert main([*words, "--seed", "6"]) == 0
    assert capsys.readouterr().out.count("; trained again: other recipe") == 2


def test_a_progress_bar_when_asked(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--limit", "1", "--progress"]) == 0
    assert "1/1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["--rank", "0"], "rank must be 1..512"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--modules", "up_proj,,"], "modules must name linear layers"),
        (["--workers", "0"], "at least 1 worker, got 0"),
        (["--ray-address", "auto"], "--ray-address needs --workers"),
        (["--input", "missing.jsonl"], "cannot read missing.jsonl"),
    ],
)
def test_mistakes_end_before_anything_is_made(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], reason: str
) -> None:
    assert main([*words, *change]) == 1
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize("trusted", [False, True])
def test_code_that_models_bring_is_trusted_only_if_asked_for(
    words: list[str], monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    asked: list[object] = []

    def watched(original: Any) -> Any:
        def from_pretrained(*args: object, **kwargs: object) -> object:
            asked.append(kwargs["trust_remote_code"])
            return original(*args, **kwargs)

        return from_pretrained

    for loader in (AutoModelForCausalLM, AutoModel, AutoTokenizer):
        monkeypatch.setattr(loader, "from_pretrained", watched(loader.from_pretrained))
    assert main([*words, "--limit", "1", *(["--trust-remote-code"] if trusted else [])]) == 0
    assert asked == [trusted] * 5  # embedder, tokenizer before the model and beside it, model


def test_a_moved_base_model_is_named_once(
    words: list[str], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedder is made of it, and moves with it."""
    old, new = Path(shutil.copytree(tiny, tmp_path / "old")), tmp_path / "new"
    assert main([*words, "--limit", "1", "--model", str(old), "--embedder", f"base:{old}"]) == 0
    old.rename(new)
    here = ["--bank", str(tmp_path / "bank")]
    rest = words[words.index("--rank") :]
    again = ["train", *here, "--input", str(tmp_path / "in.jsonl"), *rest, "--limit", "2"]
    for command in (again, ["bank", "verify", *here], ["gate", *here, "Who sings at dawn?"]):
        capsys.readouterr()
        assert main(command) == 1
        assert "If it has moved, give its new place with --model" in capsys.readouterr().err
        assert main([*command, "--model", str(new)]) == 0
