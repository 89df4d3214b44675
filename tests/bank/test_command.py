"""`vllm-mega bank`, with an invented base model and embedder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.bank.samples import BASE, EMBEDDER, SHAPES, key, staged, write_adapter
from vllm_mega import cli, models
from vllm_mega.bank.layout import EmbedderInfo, MemoryEntry
from vllm_mega.bank.reader import BankReader
from vllm_mega.bank.writer import BankWriter
from vllm_mega.gate import embedder as embedder_module
from vllm_mega.models import base_weights


class InventedEmbedder:
    """Every text has the key of its length."""

    def __init__(self, name: str, *, trust_remote_code: bool = False) -> None:
        self.info = EMBEDDER if name == EMBEDDER.name else EmbedderInfo(name, f"of {name}", 8)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([key(len(text)) for text in texts])


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bank with ann/first and default/second, of models that exist in these tests only."""
    monkeypatch.setattr(models, "resolve_recorded", lambda given, made: tmp_path / (given or made))
    monkeypatch.setattr(models, "resolve_model", lambda name: tmp_path / name)
    monkeypatch.setattr(embedder_module, "resolve_embedder", lambda name: tmp_path / name)
    monkeypatch.setattr(
        models, "fingerprint", lambda path: BASE.fingerprint if path.name == BASE.name else f"of {path.name}"
    )
    monkeypatch.setattr(base_weights, "linear_shapes", lambda path: SHAPES)
    monkeypatch.setattr(embedder_module, "load_embedder", InventedEmbedder)
    with BankWriter.create(tmp_path / "bank", BASE, EMBEDDER) as writer:
        items = [staged(writer.stage(), "first", 1, namespace="ann"), staged(writer.stage(), "second", 2)]
        writer.add(items, SHAPES)
    return tmp_path / "bank"


@pytest.fixture
def run(bank: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs an action on the bank: exit code, stdout, stderr."""

    def run(action: str, *words: object) -> tuple[int, str, str]:
        code = cli.main(["bank", action, "--bank", str(bank), *map(str, words)])
        return (code, *capsys.readouterr())

    return run


Run = Callable[..., tuple[int, str, str]]


def test_list(run: Run) -> None:
    code, out, _ = run("list")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split()[:4] == ["NAMESPACE", "ID", "VERSION", "RANK"]
    assert lines[0].split()[4:] == ["SIZE", "RECIPE", "CREATED", "TITLE", "TAGS", "LINKS"]
    assert [line.split()[:4] for line in lines[1:3]] == [
        ["ann", "first", "1", "2"],
        ["default", "second", "1", "2"],
    ]
    assert lines[3] == "memories: 2, generation 1, base model invented-base, embedder invented-embedder"
    assert run("list", "--namespace", "ann")[1].splitlines()[-1].startswith("memories: 1,")


def test_list_as_json(run: Run, bank: Path) -> None:
    _, out, _ = run("list", "--json", "--namespace", "ann")
    (line,) = out.splitlines()
    assert msgspec.json.decode(line, type=MemoryEntry) == BankReader(bank).snapshot().get("ann", "first")


def test_titles_cannot_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", 5)
    run("add", "--adapter", tmp_path / "lora", "--text", "Red ink.", "--title", "\x1b[31mred\nink")
    assert " [31mred ink" in run("list")[1]


def test_show(run: Run, bank: Path) -> None:
    code, out, _ = run("show", "first", "--namespace", "ann")
    shown = msgspec.json.decode(out)
    assert (code, shown["id"], shown["rank"]) == (0, "first", 2)
    assert shown["memory"]["text"] == "The lamp of first burns 1 nights."
    assert shown["folder"] == str(bank / "memories" / "ann" / "first" / "1")
    assert run("show", "first") == (
        1, "", "vllm-mega: error: namespace 'default' has no memory 'first'\n"
    )  # fmt: skip


def test_verify(run: Run, bank: Path) -> None:
    assert run("verify") == (0, "problems: 0\n", "")
    assert run("verify", "--json") == (0, "", "")
    (bank / "memories" / "ann" / "first" / "1" / "memory.json").write_text("{}")
    code, out, _ = run("verify", "--max-rank", "2")
    assert code == 1
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["KIND", "MEMORY", "PATH"],
        ["text", "ann/first", "memories/ann/first/1"],
        ["problems:", "1"],
    ]
    code, out, _ = run("verify", "--json")
    assert code == 1
    assert msgspec.json.decode(out)["id"] == "first"
    assert "2/2" in run("verify", "--progress")[2]


def test_verify_with_a_broken_manifest(run: Run, bank: Path) -> None:
    (bank / "manifest.json").write_text("{")
    code, out, _ = run("verify")
    assert code == 1
    assert out.splitlines()[-1] == "problems: 1"


def test_verify_for_another_base_model(run: Run) -> None:
    code, _, err = run("verify", "--model", "other-base")
    assert code == 1
    assert "made for the base model invented-base (fingerprint base-1)" in err
    assert "fingerprint of other-base" in err


def test_forget(run: Run, bank: Path) -> None:
    assert run("forget", "second") == (0, "forgot default/second\ngeneration 2\n", "")
    assert [entry.id for entry in BankReader(bank).snapshot().manifest.memories] == ["first"]
    code, _, err = run("forget", "second")
    assert (code, err) == (1, "vllm-mega: error: namespace 'default' has no memory 'second'\n")


def test_link(run: Run, bank: Path) -> None:
    assert run("link", "second", "third", "fourth") == (
        0, "default/second links to third, fourth\ngeneration 2\n", ""
    )  # fmt: skip
    assert run("link", "second", "third", "fifth")[0] == 0
    assert run("link", "second", "fifth") == (
        0, "default/second links to third, fourth, fifth\ngeneration 3\n", ""
    )  # fmt: skip
    assert run("list")[1].splitlines()[2].split()[-1] == "third,fourth,fifth"
    assert run("link", "second", "third", "fifth", "--remove")[1].startswith("default/second links to fourth")
    assert run("verify")[0] == 0
    assert run("link", "second", "fourth", "--remove")[1].startswith("default/second links to nothing")
    assert BankReader(bank).snapshot().generation == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["second", "second"], "names the memory itself"),
        (["second", "../x"], "a link must be 1 to 128 of"),
        (["second", "other", "--remove"], "default/second has no link to other"),
        (["first", "second"], "namespace 'default' has no memory 'first'"),
    ],
    ids=str,
)
def test_link_refuses(run: Run, bank: Path, words: list[str], message: str) -> None:
    code, out, err = run("link", *words)
    assert (code, out) == (1, "")
    assert message in err
    assert BankReader(bank).snapshot().generation == 1


def test_add(run: Run, bank: Path, tmp_path: Path) -> None:
    lora = write_adapter(tmp_path / "lora", 5)
    words = [
        "--text",
        "The tide is late.",
        "--title",
        "Tide",
        "--id",
        "tide",
        "--tag",
        "sea",
        "--tag",
        "time",
    ]
    assert run("add", "--adapter", lora, *words) == (0, "added default/tide, rank 2, generation 2\n", "")
    snapshot = BankReader(bank).snapshot()
    entry = snapshot.get("default", "tide")
    assert (entry.title, entry.tags, snapshot.text(entry).text) == (
        "Tide",
        ("sea", "time"),
        "The tide is late.",
    )
    np.testing.assert_array_equal(snapshot.keys[2], key(len("The tide is late.")))
    assert run("verify")[0] == 0


def test_add_from_a_file(run: Run, bank: Path, tmp_path: Path) -> None:
    lora, file = write_adapter(tmp_path / "lora", 5), tmp_path / "memory.json"
    file.write_text('{"text": "The tide is late.", "id": "tide", "qa": [{"question": "q", "answer": "a"}]}')
    assert run("add", "--adapter", lora, "--memory", file, "--namespace", "ben")[0] == 0
    snapshot = BankReader(bank).snapshot()
    assert snapshot.text(snapshot.get("ben", "tide")).qa[0].answer == "a"


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": r"([a-z._0-9]+)*!"},
        {"target_modules": ["up_proj", "down_proj", "query_key_value"]},
        {"target_modules": "all-linear", "exclude_modules": r"([a-z._0-9]+)*!"},
        {"rank_pattern": {"o_proj": 9}, "alpha_pattern": {r"layers\.1.*": 3}},
        {"modules_to_save": [], "bias": "all"},
    ],
    ids=str,
)
def test_add_what_peft_may_have_written(run: Run, bank: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    write_adapter(tmp_path / "run" / "lamp", 5, **fields)
    started = time.monotonic()
    code, out, _ = run("add", "--adapter", tmp_path / "run", "--text", "The tide is late.", "--id", "tide")
    assert (code, out) == (0, "added default/tide, rank 2, generation 2\n")
    assert time.monotonic() - started < 20
    assert run("verify")[0] == 0
    assert not list((bank / "staging").iterdir())


def test_add_refuses_before_anything_is_written(run: Run, bank: Path, tmp_path: Path) -> None:
    lora = write_adapter(tmp_path / "lora", 5, use_dora=True)
    code, _, err = run("add", "--adapter", lora, "--text", "x")
    assert code == 1
    assert f"{lora}/adapter_config.json: expected use_dora unset" in err
    assert not list((bank / "staging").iterdir())
    assert run("forget", "second")[0] == 0  # the lock is free again


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_add_from_a_file_of_another_system(run: Run, bank: Path, tmp_path: Path, encoding: str) -> None:
    lora, file = write_adapter(tmp_path / "lora", 5), tmp_path / "memory.json"
    file.write_bytes('{\r\n  "text": "The tide is late.",\r\n  "title": null\r\n}\r\n'.encode(encoding))
    assert run("add", "--adapter", lora, "--memory", file)[0] == 0
    file.write_bytes('[{"text": "One."}, {"text": "Two."}]'.encode(encoding))
    assert "expected one JSON object, found 2" in run("add", "--adapter", lora, "--memory", file)[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", " "], "text must not be empty"),
        (["--text", "half a \ud83d"], "half a character"),
        (["--text", "x", "--id", "../x"], "id must be 1 to 128 of"),
        (["--memory", "{tmp}/nowhere"], "No such file"),
        (["--memory", "{tmp}/bank/keys-1.safetensors"], "malformed"),
        (["--text", "x", "--max-rank", "1"], "a rank r of at most 1, found 2"),
        (["--text", "x", "--model", "other-base"], "made for the base model invented-base"),
        (["--text", "x", "--embedder", "other-embedder"], "made with the embedder invented-embedder"),
    ],
    ids=str,
)
def test_add_refuses(run: Run, bank: Path, tmp_path: Path, words: list[str], message: str) -> None:
    lora = write_adapter(tmp_path / "lora", 5)
    code, out, err = run("add", "--adapter", lora, *(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert (code, out) == (1, "")
    assert message in err
    assert BankReader(bank).snapshot().generation == 1


def test_create(tmp_path: Path, bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new"
    words = ["bank", "create", "--bank", str(new), "--model", BASE.name, "--embedder", EMBEDDER.name]
    assert cli.main(words) == 0
    assert (
        capsys.readouterr().out == f"created {new}: base model {BASE.name}, embedder {EMBEDDER.name} (D=8)\n"
    )
    manifest = BankReader(new).snapshot().manifest
    assert (manifest.base, manifest.embedder) == (BASE, EMBEDDER)
    assert cli.main(words) == 1
    assert "holds a bank already" in capsys.readouterr().err


def test_no_bank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in (["list"], ["verify"], ["show", "x"], ["forget", "x"]):
        assert cli.main(["bank", *action, "--bank", str(tmp_path)]) == 1
        assert "is not a bank" in capsys.readouterr().err
