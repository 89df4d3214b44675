"""`vllm-mega serve --train`: what the keeper is told, and what is refused before a server starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from vllm_mega.bank.catalog.catalog import create_catalog, open_catalog
from vllm_mega.bank.catalog.records import BankSettings
from vllm_mega.bank.layout import BaseModelInfo, EmbedderInfo
from vllm_mega.cli import main
from vllm_mega.http.companion import Beside
from vllm_mega.models import fingerprint


class Exec(BaseException):
    """This process would be another program now."""


@pytest.fixture
def bank(tmp_path: Path, tiny: Path) -> Path:
    settings = BankSettings(BaseModelInfo(str(tiny), fingerprint(tiny)), EmbedderInfo("nowhere", "e", 4))
    create_catalog(tmp_path / "bank", settings).close()
    return tmp_path / "bank"


def keeper(monkeypatch: pytest.MonkeyPatch, argv: Sequence[str]) -> list[str]:
    """The command line that `serve` becomes, from behind the keeper's name."""
    told: list[str] = []

    def execve(_: str, command: list[str], __: dict[str, str]) -> None:
        told.extend(command)
        raise Exec

    monkeypatch.setattr(os, "execve", execve)
    with pytest.raises(Exec):
        main(["serve", *argv])
    assert told[:3] == [sys.executable, "-m", "vllm_mega.http.keeper"]
    return told[3:]


def test_without_it_nothing_runs_beside_the_server(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keeper(monkeypatch, ["--bank", str(bank)])[:3] == [
        sys.executable,
        "-m",
        "vllm_mega.http.vllm_serve",
    ]
    with open_catalog(bank) as catalog:
        assert catalog.settings().base.chat_template == ""


def test_the_trainer_trains_the_bank_that_is_served(
    bank: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bank.parent)
    argv = ["--bank", "bank", "--model", str(tiny), "--train", "--train-threads", "1", "--trust-remote-code"]
    option, word, *command = keeper(monkeypatch, argv)
    assert option == "--beside"
    trainer = Beside.of(word)
    assert trainer.command == [
        sys.executable, "-m", "vllm_mega", "train", "--watch", "--bank", str(bank), "--model", str(tiny),
        "--trust-remote-code",
    ]  # fmt: skip
    assert trainer.environment["OMP_NUM_THREADS"] == "1"
    assert command[:3] == [sys.executable, "-m", "vllm_mega.http.vllm_serve"]
    assert "--trust-remote-code" in command
    assert not {"--train", "--train-threads"} & set(command), "vLLM does not know them"
    assert "a trainer starts beside them (its lines: [trainer])" in capsys.readouterr().out


def test_what_cannot_be_trained_is_refused_before_the_server_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    base = BaseModelInfo(str(tiny), fingerprint(tiny), "{{ messages }}")
    create_catalog(tmp_path / "bank", BankSettings(base, EmbedderInfo("nowhere", "e", 4))).close()
    assert main(["serve", "--bank", str(tmp_path / "bank"), "--train"]) == 1
    assert "give --chat-template plain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["--train-threads", "1"], "--train-threads needs --train"),
        (["--train", "--train-threads", "0"], "--train-threads must be 1.."),
        (["--train", "--headless"], "--headless serves nothing here"),
    ],
)
def test_what_does_not_go_together_is_refused(
    bank: Path, capsys: pytest.CaptureFixture[str], change: list[str], reason: str
) -> None:
    assert main(["serve", "--bank", str(bank), *change]) == 1
    assert reason in capsys.readouterr().err
