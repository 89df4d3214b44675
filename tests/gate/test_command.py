"""`vllm-mega gate`, with an embedder that needs no model."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.gate.banks import CELLAR, CHESS, FERRY, GOATS, KILN, LANTERN, ORCHID, add, make_used, open_gate
from vllm_mega import cli
from vllm_mega.bank.catalog.catalog import open_catalog
from vllm_mega.gate import embedder as embedders
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.gate.gate import Query

ASKED = "Who fires blue tiles in a kiln?"


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bank whose embedder is the fake one, whatever name is asked for."""
    monkeypatch.setattr(embedders, "resolve_embedder", Path)
    monkeypatch.setattr(embedders, "load_embedder", lambda name, **_: FakeEmbedder())
    add(tmp_path / "bank", FakeEmbedder(), [KILN, FERRY, CHESS, ORCHID])
    return tmp_path / "bank"


def gate(capsys: pytest.CaptureFixture[str], bank: Path, *words: str) -> str:
    assert cli.main(["gate", "--bank", str(bank), *words]) == 0
    return capsys.readouterr().out


def test_table_of_the_best_and_the_mixture(bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = gate(capsys, bank, ASKED, "--threshold", "0.45")
    lines = out.splitlines()
    assert lines[1].split()[1:] == ["1.0000", "█" * 24, "kiln", "The", "kiln"]
    assert "[bold]Chess" in out, "a title was read as markup"
    assert "orchid" not in out
    assert lines[-2] == "mixture: 1 kiln"
    decision = open_gate(bank, FakeEmbedder()).decide([Query(ASKED)])[0]
    assert lines[-1] == f"name: {decision.mixture.name}"


def test_null_route_is_said(bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = gate(capsys, bank, "quantum bananas")
    assert "null route: the best score" in out
    assert "mixture:" not in out
    assert "namespace 'nobody' has no memories" in gate(capsys, bank, ASKED, "--namespace", "nobody")


def test_json(bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = json.loads(
        gate(capsys, bank, ASKED, "--json", "--top-k", "1", "--threshold", "0.1", "--beta", "3")
    )
    assert value["settings"] == {"top_k": 1, "threshold": 0.1, "beta": 3.0, "link_share": 0.8}
    assert (value["text"], value["namespace"], value["event"]) == (ASKED, "default", 4)
    assert (value["null_route"], value["mixture"][:5]) == (False, "mega-")
    memories = value["memories"]
    assert [memory["weight"] for memory in memories] == [1.0, 0.0, 0.0]
    assert memories[0]["id"] == "kiln"
    assert value["best_score"] == memories[0]["score"]
    nothing = json.loads(gate(capsys, bank, "quantum bananas", "--json"))
    assert (nothing["null_route"], nothing["mixture"]) == (True, None)


def test_use_is_told_where_it_counts(bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(bank, FakeEmbedder(), [CELLAR, GOATS], seed=20)
    with open_catalog(bank) as catalog:
        make_used(catalog, "goats", time.time(), 200.0)
    best_one = (LANTERN, "--top-k", "1")
    assert "mixture: 1 cellar" in gate(capsys, bank, *best_one)
    counts = (*best_one, "--salience-margin", "0.05", "--salience-half-life-days", "365")
    lines = gate(capsys, bank, *counts).splitlines()
    assert [line for line in lines if line.startswith("use adds")] == [
        "use adds 0.0000 to cellar (salience 0)",
        "use adds 0.0468 to goats (salience 0.9375)",
    ]
    assert "mixture: 1 goats" in lines
    told = json.loads(gate(capsys, bank, *counts, "--json"))["salience"]
    assert told[1] == {"id": "goats", "salience": 0.9375, "added": 0.0468}
    assert json.loads(gate(capsys, bank, *best_one, "--json"))["salience"] == []


def test_the_best_ten_or_all(bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vllm_mega.bank.layout import NewMemory

    add(
        bank,
        FakeEmbedder(),
        [NewMemory(f"Lamp number {n} burns.", id=f"lamp-{n}") for n in range(11)],
        seed=9,
    )
    out = gate(capsys, bank, "Which lamp burns?")
    assert out.count("lamp-") - out.partition("mixture")[2].count("lamp-") == 10
    assert "4 more memories: --all shows them" in out
    everything = gate(capsys, bank, "Which lamp burns?", "--all").partition("mixture")[0]
    assert everything.count("lamp-") == 11
    assert "more memories" not in everything


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["  "], "the text is empty"),
        ([ASKED, "--top-k", "0"], "top_k must be 1..64, got 0"),
        ([ASKED, "--bank", "nowhere"], "is not a bank"),
    ],
)
def test_mistakes(bank: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert cli.main(["gate", "--bank", str(bank), *words]) == 1
    assert message in capsys.readouterr().err


def test_a_text_that_the_embedder_cannot_read_is_called_so(
    bank: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEmbedder, "passages", lambda *_: [])
    out = gate(capsys, bank, ASKED)
    assert "null route: the best score 0.0000" in out
    assert out.splitlines()[-1] == "the embedder fake cannot read the script of this text"
