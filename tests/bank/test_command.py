"""`vllm-mega bank`, with an invented base model and embedder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bank.samples import BASE, EMBEDDER, SHAPES, key, write_adapter
from tests.banks import Item, last_event, make_bank, newest, row
from vllm_mega import cli, models
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.bank.catalog.drafts import key_array
from vllm_mega.bank.catalog.jobs import fail, lease
from vllm_mega.bank.layout import EmbedderInfo, NewMemory
from vllm_mega.gate import embedder as embedder_module
from vllm_mega.models import base_weights

Run = Callable[..., tuple[int, str, str]]


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
    first = NewMemory("The lamp of first burns 1 nights.", id="first", namespace="ann", title="Lamp")
    second = NewMemory("The lamp of second burns 2 nights.", id="second", tags=("light",))
    items = [
        Item(memory, write_adapter(tmp_path / f"made-{n}", n), key(n))
        for n, memory in enumerate((first, second), 1)
    ]
    make_bank(tmp_path / "bank", items)
    return tmp_path / "bank"


@pytest.fixture
def run(bank: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an action on the bank: exit code, stdout, stderr."""

    def run(action: str, *words: object) -> tuple[int, str, str]:
        code = cli.main(["bank", action, "--bank", str(bank), *map(str, words)])
        return (code, *capsys.readouterr())

    return run


def test_list(run: Run) -> None:
    code, out, _ = run("list")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == [
        "NAMESPACE", "ID", "VERSION", "STATE", "RANK", "SIZE", "RECIPE", "CHANGED", "TITLE", "TAGS", "LINKS",
    ]  # fmt: skip
    assert [line.split()[:5] for line in lines[1:3]] == [
        ["default", "second", "1", "ready", "2"],
        ["ann", "first", "1", "ready", "2"],
    ]
    assert lines[3] == "memories: 2, base model invented-base, embedder invented-embedder"
    for words, ids in (
        (["--namespace", "ann"], ["first"]),
        (["--tag", "light"], ["second"]),
        (["--state", "pending"], []),
        (["--limit", "1"], ["second"]),
        (["--pinned"], []),
        (["--since", "2020-01-01", "--until", "2999-01-01T00:00:00+01:00"], ["second", "first"]),
        (["--until", "2020-01-01"], []),
    ):
        assert [line.split()[1] for line in run("list", *words)[1].splitlines()[1:-1]] == ids
    assert run("list", "--limit", "1")[1].splitlines()[-1].startswith("memories: 1 of 2,")


def test_list_as_json(run: Run, bank: Path) -> None:
    run("link", "second", "third")
    _, out, _ = run("list", "--json", "--tag", "light")
    (line,) = map(json.loads, out.splitlines())
    assert (line["id"], line["links"], line["state"]) == ("second", ["third"], "ready")
    assert line["adapter"] == row(bank, "second").adapter


def test_info(run: Run, bank: Path) -> None:
    told = json.loads(run("info", "--json")[1])
    assert (told["memories"], told["ready"], told["base_model"], told["dim"]) == (2, 2, BASE.name, 8)
    assert told["catalog"] == str(bank / "catalog.sqlite")
    assert f"bank        {bank}" in run("info")[1]


def test_titles_cannot_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", 5)
    run("add", "--adapter", tmp_path / "lora", "--text", "Red ink.", "--title", "\x1b[31mred\nink")
    assert " [31mred ink" in run("list")[1]


def test_show(run: Run, bank: Path) -> None:
    code, out, _ = run("show", "first", "--namespace", "ann")
    shown = json.loads(out)
    assert (code, shown["id"], shown["rank"]) == (0, "first", 2)
    assert shown["memory"]["text"] == "The lamp of first burns 1 nights."
    digest = row(bank, "first", "ann").adapter
    assert shown["folder"] == str(bank / "adapters" / str(digest)[:2] / str(digest))
    assert run("show", "first") == (
        1, "", "vllm-mega: error: namespace 'default' has no memory 'first'\n"
    )  # fmt: skip
    assert "of version 7" in run("show", "second", "--version", "7")[2]


def test_history_and_restore(run: Run) -> None:
    run("tag", "second", "old")
    code, out, _ = run("history", "second")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines] == ["VERSION", "2", "1", "EVENT", "2", "3"]
    assert [line.split()[3] for line in lines[4:]] == ["added", "updated"]
    assert run("restore", "second", "1")[1] == "default/second is as in version 1: version 3, ready\n"
    run("forget", "second")
    assert "burns" not in run("history", "second")[1]


def test_verify(run: Run, bank: Path) -> None:
    assert run("verify") == (0, "problems: 0\n", "")
    assert run("verify", "--json") == (0, "", "")
    digest = str(row(bank, "first", "ann").adapter)
    (bank / "adapters" / digest[:2] / digest / "adapter_config.json").write_text("{}")
    code, out, _ = run("verify", "--max-rank", "2")
    assert code == 1
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["KIND", "WHERE"],
        ["adapter", f"adapters/{digest[:2]}/{digest}"],
        ["problems:", "1"],
    ]
    code, out, _ = run("verify", "--json")
    assert (code, json.loads(out)["kind"]) == (1, "adapter")
    assert "2/2" in run("verify", "--progress")[2]


def test_sweep(run: Run, bank: Path) -> None:
    write_adapter(bank / "adapters" / "ab" / ("ab" + "0" * 62), 5)
    assert "orphan" in run("verify")[1]
    assert run("sweep") == (0, "removed: 1\n", "")
    assert run("verify")[0] == 0


def test_a_broken_catalog(run: Run, bank: Path) -> None:
    for name in ("catalog.sqlite-wal", "catalog.sqlite-shm"):
        (bank / name).unlink(missing_ok=True)
    (bank / "catalog.sqlite").write_text("{" * 5000)
    code, _, err = run("verify")
    assert code == 1
    assert f"the catalog {bank}/catalog.sqlite refused: file is not a database" in err


def test_verify_for_another_base_model(run: Run) -> None:
    code, _, err = run("verify", "--model", "other-base")
    assert code == 1
    assert "made for the base model invented-base (fingerprint base-1)" in err
    assert "fingerprint of other-base" in err


def test_forget(run: Run, bank: Path) -> None:
    assert run("forget", "second") == (0, "forgot default/second (event 3)\n", "")
    assert run("list")[1].splitlines()[-1].startswith("memories: 1,")
    code, _, err = run("forget", "second")
    assert (code, err) == (1, "vllm-mega: error: namespace 'default' has no memory 'second'\n")
    assert last_event(bank) == 3


def test_link(run: Run, bank: Path) -> None:
    assert run("link", "second", "third", "fourth") == (0, "default/second links to third, fourth\n", "")
    assert run("link", "second", "third", "fifth")[0] == 0
    assert run("link", "second", "fifth") == (0, "default/second links to third, fourth, fifth\n", "")
    assert run("list")[1].splitlines()[1].split()[-1] == "third,fourth,fifth"
    assert run("link", "second", "third", "fifth", "--remove")[1] == "default/second links to fourth\n"
    assert run("verify")[0] == 0
    assert run("link", "second", "fourth", "--remove")[1] == "default/second links to nothing\n"
    assert row(bank, "second").links == ()


@pytest.mark.parametrize(
    ("action", "words", "message"),
    [
        ("link", ["second", "second"], "names the memory itself"),
        ("link", ["second", "../x"], "a link must be 1 to 128 of"),
        ("link", ["second", "other", "--remove"], "default/second has no link to other"),
        ("link", ["first", "second"], "namespace 'default' has no memory 'first'"),
        ("tag", ["second", "other", "--remove"], "default/second has no tag other"),
        ("tag", ["second", " x"], "no white space around them"),
        ("pin", ["first"], "namespace 'default' has no memory 'first'"),
        ("restore", ["second", "4"], "of version 4"),
    ],
    ids=str,
)
def test_changes_that_cannot_be(run: Run, bank: Path, action: str, words: list[str], message: str) -> None:
    code, out, err = run(action, *words)
    assert (code, out) == (1, "")
    assert message in err
    assert last_event(bank) == 2


def test_tags_and_pins_train_nothing(run: Run, bank: Path) -> None:
    before = row(bank, "second")
    assert run("tag", "second", "old", "sea")[1] == "default/second has the tags light, old, sea\n"
    assert run("tag", "second", "old", "light", "--remove")[1] == "default/second has the tags sea\n"
    assert run("pin", "second") == (0, "pinned default/second\n", "")
    assert [memory.split()[1] for memory in run("list", "--pinned")[1].splitlines()[1:-1]] == ["second"]
    after = row(bank, "second")
    assert (after.state, after.adapter) == ("ready", before.adapter)
    assert run("unpin", "second") == (0, "unpinned default/second\n", "")
    assert run("list", "--pinned")[1].splitlines()[1:-1] == []


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
    assert run("add", "--adapter", lora, *words) == (
        0, "added default/tide, version 1, ready, rank 2\n", "",
    )  # fmt: skip
    version = newest(bank, "tide")
    assert (version.title, version.tags, version.text) == ("Tide", ("sea", "time"), "The tide is late.")
    assert version.key is not None
    np.testing.assert_array_equal(key_array(version.key), key(len("The tide is late.")))
    assert run("verify")[0] == 0


def test_add_for_a_trainer(run: Run, bank: Path, tmp_path: Path) -> None:
    assert run("add", "--text", "The tide is late.", "--id", "tide")[1] == (
        "added default/tide, version 1, pending\n"
    )
    assert run("add", "--text", "Nobody trains it.", "--id", "still", "--no-train")[0] == 0
    file = tmp_path / "many.jsonl"
    file.write_text('{"text": "One.", "id": "one"}\n{"text": "Two.", "id": "two"}\n')
    assert run("add", "--memory", file, "--namespace", "ben")[1].count("added ben/") == 2
    code, out, _ = run("jobs")
    assert code == 0
    assert [line.split()[:5] for line in out.splitlines()] == [
        ["NAMESPACE", "ID", "VERSION", "STATE", "ATTEMPTS"],
        ["default", "tide", "1", "waiting", "0"],
        ["ben", "one", "1", "waiting", "0"],
        ["ben", "two", "1", "waiting", "0"],
        ["jobs:", "3"],
    ]
    with open_catalog(bank) as catalog:
        fail(catalog, lease(catalog, "trainer", 60)[0], "the loss is not finite")
    told = json.loads(run("jobs", "--namespace", "default", "--json")[1])
    assert (told["attempts"], told["reason"]) == (1, "the loss is not finite")


def test_add_from_a_file(run: Run, bank: Path, tmp_path: Path) -> None:
    lora, file = write_adapter(tmp_path / "lora", 5), tmp_path / "memory.json"
    file.write_text('{"text": "The tide is late.", "id": "tide", "qa": [{"question": "q", "answer": "a"}]}')
    assert run("add", "--adapter", lora, "--memory", file, "--namespace", "ben")[0] == 0
    assert newest(bank, "tide", "ben").qa[0].answer == "a"


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
    assert (code, out) == (0, "added default/tide, version 1, ready, rank 2\n")
    assert time.monotonic() - started < 20
    assert run("verify")[0] == 0
    assert not list((bank / "staging").iterdir())


def test_add_refuses_before_anything_is_written(run: Run, bank: Path, tmp_path: Path) -> None:
    lora = write_adapter(tmp_path / "lora", 5, use_dora=True)
    code, _, err = run("add", "--adapter", lora, "--text", "x")
    assert code == 1
    assert f"{lora}/adapter_config.json: expected use_dora unset" in err
    assert not list((bank / "staging").iterdir())
    assert last_event(bank) == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_add_from_a_file_of_another_system(run: Run, bank: Path, tmp_path: Path, encoding: str) -> None:
    lora, file = write_adapter(tmp_path / "lora", 5), tmp_path / "memory.json"
    file.write_bytes('{\r\n  "text": "The tide is late.",\r\n  "title": null\r\n}\r\n'.encode(encoding))
    assert run("add", "--adapter", lora, "--memory", file)[0] == 0
    file.write_bytes('[{"text": "One."}, {"text": "Two."}]'.encode(encoding))
    assert "expected one JSON object, found 2" in run("add", "--adapter", lora, "--memory", file)[2]
    assert "expected one JSON object, found 2" in run("add", "--memory", file, "--id", "both")[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", " "], "text must not be empty"),
        (["--text", "half a \ud83d"], "half a character"),
        (["--text", "x", "--id", "../x"], "id must be 1 to 128 of"),
        (["--memory", "{tmp}/nowhere"], "No such file"),
        (["--memory", "{tmp}/lora/adapter_model.safetensors"], "line 1"),
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
    assert last_event(bank) == 2


def test_export_and_import(run: Run, bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", tmp_path / "out") == (0, f"exported 2 memories to {tmp_path / 'out'}\n", "")
    assert cli.main(["bank", "import", "--bank", str(tmp_path / "copy"), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"imported 2 memories into {tmp_path / 'copy'}\n"
    assert row(tmp_path / "copy", "second").adapter == row(bank, "second").adapter


def test_create(tmp_path: Path, bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new"
    words = ["bank", "create", "--bank", str(new), "--model", BASE.name, "--embedder", EMBEDDER.name]
    assert cli.main(words) == 0
    assert (
        capsys.readouterr().out == f"created {new}: base model {BASE.name}, embedder {EMBEDDER.name} (D=8)\n"
    )
    with open_catalog(new) as catalog:
        settings = catalog.settings()
    assert (settings.base, settings.embedder) == (BASE, EMBEDDER)
    assert cli.main(words) == 1
    assert "holds a catalog already" in capsys.readouterr().err


def test_no_bank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in (["list"], ["verify"], ["show", "x"], ["forget", "x"], ["jobs"], ["info"]):
        assert cli.main(["bank", *action, "--bank", str(tmp_path)]) == 1
        assert "is not a bank" in capsys.readouterr().err


def test_a_bank_of_the_old_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert cli.main(["bank", "list", "--bank", str(tmp_path)]) == 1
    assert "holds a bank of the old format" in capsys.readouterr().err


def test_a_password_is_never_printed(bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for url in (
        "postgresql+psycopg://me:hush@127.0.0.1:1/none",
        "mysql://me:hush@host/x",
        "postgresql://:hush@[x",
    ):
        assert cli.main(["bank", "list", "--bank", str(bank), "--catalog", url]) == 1
        told = "".join(capsys.readouterr())
        assert "error" in told
        assert "hush" not in told


def test_forget_with_a_receipt(run: Run, bank: Path, tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    code, out, _ = run("forget", "second", "--receipt", receipt)
    assert (code, out) == (0, f"receipt: {receipt}\nforgot default/second (event 3)\n")
    assert receipt.stat().st_mode & 0o777 == 0o600
    assert run("verify", "--forgotten", receipt) == (0, "problems: 0\n", "")
    run("add", "--text", "The lamp of second burns 2 nights.", "--id", "again", "--tag", "light")
    code, out, _ = run("verify", "--forgotten", receipt, "--json")
    assert (code, [json.loads(line)["where"] for line in out.splitlines()]) == (1, ["default/again"])
    code, _, err = run("forget", "again", "--receipt", receipt)
    assert code == 1
    assert "cannot be made (File exists), and nothing is forgotten" in err
    assert newest(bank, "again").number == 1


def test_no_receipt_stays_of_what_was_not_forgotten(run: Run, tmp_path: Path) -> None:
    assert run("forget", "nobody", "--receipt", tmp_path / "receipt.json")[0] == 1
    assert not (tmp_path / "receipt.json").exists()
    assert run("verify", "--forgotten", tmp_path / "receipt.json")[0] == 1


def test_sweep_can_write_the_catalog_anew(run: Run) -> None:
    assert run("sweep", "--rewrite") == (0, "removed: 0\nthe catalog is written anew\n", "")
