"""The chat template of a bank in `MegaLLM`, without an engine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm import SamplingParams

from tests.banks import make_bank
from tests.training.tiny import save_tiny
from vllm_mega import offline
from vllm_mega.bank.layout import BaseModelInfo
from vllm_mega.models import fingerprint


class FakeLLM:
    """Keeps what it is given; vLLM's own does not use its template unless a call names it."""

    def __init__(self, model: str, *, chat_template: str | None = None, **_: Any) -> None:
        self.chat_template = chat_template
        self.llm_engine = SimpleNamespace(vllm_config=None)
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


@pytest.mark.parametrize(
    ("kept", "given", "asked"), [("", {}, None), ("A", {}, "A"), ("A", {"chat_template": "B"}, "B")]
)
def test_every_call_has_the_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str, given: dict[str, str], asked: str | None
) -> None:
    model = save_tiny(tmp_path / "model")
    base = BaseModelInfo(str(model), fingerprint(model), kept)
    make_bank(tmp_path / "bank", base=base)
    monkeypatch.setattr(offline, "LLM", FakeLLM)
    for name in ("gate_embedder", "gate_over"):
        monkeypatch.setattr(offline, name, lambda *_, **__: None)
    monkeypatch.setattr(offline.AdapterChecks, "of", lambda _: None)
    monkeypatch.setattr(offline.launch, "this_environment", lambda _: {"VLLM_PLUGINS": "vllm_mega"})
    monkeypatch.setenv("VLLM_PLUGINS", "vllm_mega")
    llm = offline.MegaLLM(tmp_path / "bank", **given)
    llm.answers([[{"role": "user", "content": "Why?"}]], SamplingParams(), False, [None])
    assert llm.llm.calls == [asked]
