"""What the actions that change nothing print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bank.command.running import Run
from tests.bank.samples import BASE, write_adapter
from tests.banks import row
from vllm_mega import cli


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
