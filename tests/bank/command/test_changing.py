"""Forgetting, links, tags, pins, whole banks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bank.command.running import Run
from tests.bank.samples import BASE, EMBEDDER
from tests.banks import last_event, row
from tests.clock import forward, in_seconds
from vllm_mega import cli
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.errors import MemoryNotFoundError


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


def test_retire_and_unretire(run: Run, bank: Path) -> None:
    assert run("retire", "second") == (0, "retired default/second\n", "")
    with pytest.raises(MemoryNotFoundError):
        row(bank, "second")
    assert [memory.split()[1] for memory in run("list", "--retired")[1].splitlines()[1:-1]] == ["second"]
    assert json.loads(run("show", "second")[1])["retired"]
    assert run("unretire", "second") == (0, "unretired default/second\n", "")
    assert row(bank, "second").state == "ready"
    assert run("retire", "first")[0] == 1


def test_expire(run: Run, bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = in_seconds(60).isoformat()
    words = ("add", "--text", "The tide is late.", "--id", "tide")
    assert run(*words, "--expires-at", moment)[0] == 0
    assert "zone" in run(*words, "--expires-at", "2199-01-01T00:00:00")[2]
    assert run("expire") == (0, "expired: 0\n", "")
    forward(monkeypatch)(61)
    assert run("show", "tide")[0] == 1
    assert "tide" not in run("list")[1]
    assert [memory.split()[1] for memory in run("list", "--expired")[1].splitlines()[1:-1]] == ["tide"]
    assert run("expire") == (0, "expired default/tide\nexpired: 1\n", "")
    assert run("list", "--expired")[1].splitlines()[1:-1] == []
    assert run("history", "tide")[1].splitlines()[-1].split()[-3:] == ["clock", "expired", "1"]


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
