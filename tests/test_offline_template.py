"""What `MegaLLM` takes from a bank and tells it, without an engine: its chat template, uses of memories."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm import SamplingParams

from tests.banks import make_bank
from tests.hook.test_hook import Checks
from tests.http.fakes import FakeGate
from tests.training.tiny import save_tiny
from vllm_mega import offline
from vllm_mega.bank.layout import BaseModelInfo
from vllm_mega.models import fingerprint


class FakeLLM:
    """Keeps what it is given; vLLM's own does not use its template unless a call names it."""

    def __init__(self, model: str, *, chat_template: str | None = None, **_: Any) -> None:
        self.chat_template = chat_template
        self.llm_engine = SimpleNamespace(vllm_config=None)
        self.model_config = SimpleNamespace(max_model_len=2048)
        self.calls: list[Any] = []

    def get_tokenizer(self) -> object:
        return object()

    def _preprocess_chat_one(self, messages: Any, chat_template: str | None) -> Any:
        self.calls.append(chat_template)
        return {"prompt_token_ids": [1]}

    def _render_and_add_requests(self, prompts: Any, *_: Any, **__: Any) -> None:
        self.asked = list(prompts)

    def _run_engine(self, *_: Any, **__: Any) -> list[Any]:
        return [SimpleNamespace(outputs=[SimpleNamespace(finish_reason="stop")]) for _ in self.asked]


def made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str = "", gate: Any = None, **given: Any
) -> Any:
    """A `MegaLLM` of a bank that keeps this template, and of a gate."""
    model = save_tiny(tmp_path / "model")
    make_bank(tmp_path / "bank", base=BaseModelInfo(str(model), fingerprint(model), kept))
    monkeypatch.setattr(offline, "LLM", FakeLLM)
    monkeypatch.setattr(offline, "gate_embedder", lambda *_, **__: None)
    monkeypatch.setattr(offline, "gate_over", lambda *_, **__: gate)
    monkeypatch.setattr(offline.AdapterChecks, "of", lambda _: Checks())
    monkeypatch.setattr(offline.launch, "this_environment", lambda _: {"VLLM_PLUGINS": "vllm_mega"})
    monkeypatch.setenv("VLLM_PLUGINS", "vllm_mega")
    return offline.MegaLLM(tmp_path / "bank", **given)


@pytest.mark.parametrize(
    ("kept", "given", "asked"), [("", {}, None), ("A", {}, "A"), ("A", {"chat_template": "B"}, "B")]
)
def test_every_call_has_the_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str, given: dict[str, str], asked: str | None
) -> None:
    llm = made(tmp_path, monkeypatch, kept, **given)
    llm.answers([[{"role": "user", "content": "Why?"}]], SamplingParams(), False, [None])
    assert llm.llm.calls == [asked]


def test_what_the_gate_chose_is_used_and_what_a_caller_named_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = FakeGate()
    llm = made(tmp_path, monkeypatch, gate=gate)
    answer = SimpleNamespace(outputs=[SimpleNamespace(text="Yes.")])
    monkeypatch.setattr(llm, "answers", lambda asked, *_: [(answer, 0) for _ in asked])
    llm.chat(["bees and owls", "nothing we know"])
    llm.chat(["owls"], mega={"memories": [{"id": "goats"}]})
    assert gate.uses == ["bees", "owls"]
