"""What a server is asked that doctor has started, and what is made of its answers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from vllm_mega.demo.checks import Reply
from vllm_mega.doctor import generation
from vllm_mega.errors import MegaError

REQUEST = httpx.Request("POST", "http://server/v1/chat/completions")


class FakeAsker:
    """A server of two names; what it says of each."""

    base, mega = "model", "model-mega"

    def __init__(self, said: dict[str, tuple[int, ...]], error: Exception | None = None) -> None:
        self.said, self.error = said, error

    def ask(self, model: str, prompt: str, tokens: int) -> Reply:
        if self.error is not None:
            raise self.error
        return Reply(f"{model} says Paris", self.said[model], ())


def asked(monkeypatch: pytest.MonkeyPatch, *given: Any) -> generation.Finding:
    monkeypatch.setattr(generation, "Asker", lambda url: FakeAsker(*given))
    return generation.asked("http://server", 12.3)


def test_both_names_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = asked(monkeypatch, {"model": (1,), "model-mega": (2,)})
    assert finding.status == "ok"
    assert finding.found.startswith("'model-mega says Paris', 0.0 s; started in 12 s")
    assert asked(monkeypatch, {"model": (1,), "model-mega": ()}).status == "problem"
    assert asked(monkeypatch, {"model": (), "model-mega": (1,)}).status == "problem"


def test_a_server_that_asks_for_a_key_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    error = openai.AuthenticationError("no key", response=httpx.Response(401, request=REQUEST), body=None)
    finding = asked(monkeypatch, {}, error)
    assert (finding.status, finding.found) == ("warning", "the server started, and asks for a key")


def test_a_server_that_refuses_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = asked(monkeypatch, {}, openai.APIConnectionError(request=REQUEST, message="it broke off"))
    assert (finding.status, finding.found) == ("problem", "the server started, and refused: it broke off")


def test_without_a_bank_there_is_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    @contextmanager
    def serving(command: list[str], *_: Any) -> Any:
        started.append(command)
        yield "http://server"

    monkeypatch.setattr(generation, "serving", serving)
    monkeypatch.setattr(generation, "_empty_bank", lambda folder: ["--bank", "made"])
    monkeypatch.setattr(generation, "Asker", lambda url: FakeAsker({"model": (1,), "model-mega": (2,)}))
    assert [one.status for one in generation.generation([])] == ["ok"]
    assert [one.status for one in generation.generation(["--bank", "given"])] == ["ok"]
    assert [command[3:6] for command in started] == [["serve", "--bank", name] for name in ("made", "given")]
    assert all("127.0.0.1" in command for command in started)


def test_an_empty_bank_that_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(generation, "_ours", lambda command: ["sh", "-c", "echo no model >&2; exit 1"])
    with pytest.raises(MegaError, match="an empty bank could not be made: no model"):
        generation._empty_bank(tmp_path)
