"""`vllm-mega doctor`, most of it with checks invented here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.bank.samples import EMBEDDER
from tests.banks import make_bank
from tests.models.checkpoints import write_checkpoint
from vllm_mega.bank.layout import BaseModelInfo
from vllm_mega.cli import main
from vllm_mega.doctor import examination, generation
from vllm_mega.doctor.bank import Asked
from vllm_mega.doctor.finding import Check, Finding, examined, exit_status
from vllm_mega.errors import KernelError
from vllm_mega.models import fingerprint

FINE = Finding("python", "ok", "3.11")
WARNED = Finding("disk", "warning", "1 GiB", "make room")
BROKEN = Finding("vllm", "problem", "gone", "install it")
Finds = Callable[..., list[Asked | None]]


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> Finds:
    """Let the examination find these; what it is asked for comes into the list."""

    def put(*findings: Finding) -> list[Asked | None]:
        asked: list[Asked | None] = []

        def found(bank: Asked | None, serve: Check) -> Iterator[Finding]:
            asked.append(bank)
            yield from findings

        monkeypatch.setattr(examination, "examination", found)
        return asked

    return put


def test_a_table(finds: Finds, capsys: pytest.CaptureFixture[str]) -> None:
    asked = finds(FINE, WARNED)
    assert main(["doctor"]) == 0
    assert asked == [None]
    assert capsys.readouterr().out.splitlines() == [
        "STATUS   WHAT    FOUND, AND WHAT TO CHANGE",
        "ok       python  3.11",
        "warning  disk    1 GiB: make room",
        "problems: 0, warnings: 1",
    ]


def test_a_problem_is_exit_status_1(finds: Finds, capsys: pytest.CaptureFixture[str]) -> None:
    finds(BROKEN, WARNED)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.endswith("problems: 1, warnings: 1\n")


def test_json(finds: Finds, capsys: pytest.CaptureFixture[str]) -> None:
    finds(FINE, BROKEN)
    assert main(["doctor", "--json"]) == 1
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"name": "python", "status": "ok", "found": "3.11", "change": ""},
        {"name": "vllm", "status": "problem", "found": "gone", "change": "install it"},
    ]


def test_the_bank_is_that_of_the_options(finds: Finds, tmp_path: Path) -> None:
    asked = finds(FINE)
    url = "postgresql+psycopg://me@host/bank"
    main(["doctor", "--bank", str(tmp_path), "--catalog", url, "--model", "m", "--embedder", "e"])
    assert asked == [Asked(tmp_path, url, "m", "e")]


@pytest.mark.parametrize("words", [["--model", "m"], ["--max-loras", "4"]])
def test_options_of_a_bank_need_one(
    finds: Finds, words: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    finds(FINE)
    assert main(["doctor", *words]) == 1
    assert f"{' '.join(words)} is about a bank: give --bank" in capsys.readouterr().err


@pytest.mark.parametrize(("first", "code", "begun"), [(FINE, 0, 1), (BROKEN, 1, 0)])
def test_a_server_is_started_when_nothing_is_broken(
    finds: Finds, monkeypatch: pytest.MonkeyPatch, first: Finding, code: int, begun: int
) -> None:
    asked: list[Sequence[str]] = []

    def says(words: Sequence[str]) -> Iterator[Finding]:
        asked.append(list(words))
        yield Finding("generation", "ok", "Paris")

    monkeypatch.setattr(generation, "generation", says)
    finds(first)
    assert main(["doctor", "--bank", "b", "--generate", "--max-loras", "4"]) == code
    assert asked == [["--bank", "b", "--max-loras", "4"]] * begun


@pytest.mark.parametrize("error", [KernelError("no g++"), OSError("no g++"), ImportError("no g++")])
def test_errors_of_a_check_are_problems_after_what_it_has_found(error: Exception) -> None:
    def check() -> Iterator[Finding]:
        yield FINE
        raise error

    found = list(examined("kernel", check))
    assert found == [FINE, Finding("kernel", "problem", "no g++")]
    assert exit_status(found) == 1
    assert exit_status([FINE, WARNED]) == 0


def test_what_serve_would_do_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real check of a bank, and the real parser of `serve`."""
    from vllm_mega.doctor import bank

    def bank_alone(asked: Asked | None, serve: Check) -> Iterator[Finding]:
        assert asked is not None
        yield from (one for one in bank.bank(asked, serve) if one.name == "serve")

    monkeypatch.setattr(examination, "examination", bank_alone)
    model = write_checkpoint(tmp_path / "model")
    make_bank(tmp_path / "bank", base=BaseModelInfo(str(model), fingerprint(model)), embedder=EMBEDDER)
    words = ["doctor", "--bank", str(tmp_path / "bank"), "--max-loras", "4"]
    assert main(words) == 0
    assert "model, 0 memories with an adapter, 4 slots" in capsys.readouterr().out
    assert main([*words, "--keys", str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().out
    assert main([*words, "--max-lora-rank", "7"]) == 1
    assert "vllm serve: argument --max-lora-rank" in capsys.readouterr().out
