"""What `vllm-mega mcp` is given."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_mega import cli
from vllm_mega.mcp import stdio


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    monkeypatch.setattr(stdio, "run", lambda *given: calls.append(given))
    monkeypatch.delenv("VLLM_MEGA_API_KEY", raising=False)
    return calls


@pytest.mark.parametrize("url", ["http://memory:8000", "http://memory:8000/", "http://memory:8000/v1"])
def test_the_url_of_a_server_in_its_spellings(served: list[Any], url: str) -> None:
    assert cli.main(["mcp", "--url", url]) == 0
    assert served == [("http://memory:8000", None, None)]


def test_the_key_comes_from_the_environment(served: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_MEGA_API_KEY", "mega-x")
    assert cli.main(["mcp", "--namespace", "sea"]) == 0
    assert served == [("http://127.0.0.1:8000", "mega-x", "sea")]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--url", "memory:8000"], "--url must be the root of a server"),
        (["--url", "http://"], "--url must be the root of a server"),
        (["--url", "http://memory?a=b"], "--url must be the root of a server"),
        (["--url", "http://[::1"], "--url must be the root of a server"),
        (["--namespace", "../x"], "--namespace must be 1 to 128"),
    ],
)
def test_what_cannot_be_is_refused(
    served: list[Any], capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    assert cli.main(["mcp", *words]) == 1
    assert why in capsys.readouterr().err
    assert served == []


@pytest.mark.parametrize("key", ["mega x", "mega-\u00e4", "mega-x\n"])
def test_a_key_that_can_be_none_is_refused(
    served: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    monkeypatch.setenv("VLLM_MEGA_API_KEY", key)
    assert cli.main(["mcp"]) == 1
    assert "VLLM_MEGA_API_KEY has white space" in capsys.readouterr().err
    assert served == []
