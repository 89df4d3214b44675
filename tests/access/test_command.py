"""`vllm-mega keys`."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_mega.access.keyfile import read_keys
from vllm_mega.access.limits import Limits
from vllm_mega.access.principals import Principal
from vllm_mega.cli import main


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "keys.json")


def test_a_key_is_printed_once_and_opens(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--role", "write", "--namespace", "sea", "--namespace", "land"]
    assert main(["keys", "add", "alice", "--file", file, *words]) == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 1, "so that a script can take it"
    key = said.out.strip()
    assert key not in said.err
    assert read_keys(Path(file)).find(key) == Principal("alice", "write", ("sea", "land"))
    assert main(["keys", "list", "--file", file]) == 0
    listed = capsys.readouterr().out
    assert "alice  write  sea,land" in listed
    assert key not in listed + Path(file).read_text()
    assert main(["keys", "revoke", "alice", "--file", file]) == 0
    assert read_keys(Path(file)).find(key) is None


def test_what_a_key_is_for_is_said(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "add", "alice", "--file", file, "--role", "read"]) == 1
    assert "--namespace NAME, or --all-namespaces" in capsys.readouterr().err
    assert not Path(file).exists()
    assert main(["keys", "add", "alice", "--file", file, "--role", "read", "--all-namespaces"]) == 0
    assert main(["keys", "add", "ops", "--file", file, "--role", "admin"]) == 0
    assert [entry.namespaces for entry in read_keys(Path(file)).keys] == [None, None]


def test_an_admin_of_one_namespace_is_refused(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "add", "ops", "--file", file, "--role", "admin", "--namespace", "sea"]) == 1
    assert "an admin's key is for all namespaces" in capsys.readouterr().err


def test_a_key_that_is_not_there_cannot_be_revoked(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list", "--file", file]) == 1
    assert main(["keys", "revoke", "bob", "--file", file]) == 1
    assert "no key called 'bob'" in capsys.readouterr().err


def test_limits_of_a_namespace(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["keys", "limit", "sea", "--file", file, "--memories", "5", "--changes-per-minute", "60"]) == 0
    )
    assert main(["keys", "limit", "*", "--file", file, "--text-bytes", "100"]) == 0
    book = read_keys(Path(file))
    assert book.limits_of("sea") == Limits(5, 65536, 60)
    assert book.limits_of("land") == Limits(None, 100, None)
    assert main(["keys", "list", "--file", file]) == 0
    assert "sea        5         65536       60" in capsys.readouterr().out
    assert main(["keys", "limit", "sea", "--file", file, "--memories", "0"]) == 1
    assert "memories" in capsys.readouterr().err
