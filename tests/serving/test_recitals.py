"""Mode irag with two memories: each is recited alone, then both texts are in the context. No engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat

from tests.serving.test_deciding import decision_of
from vllm_mega.config import MegaSettings
from vllm_mega.gate.gate import Decision
from vllm_mega.mixture import Mixture
from vllm_mega.offline import MegaLLM
from vllm_mega.serving.handlers import MegaChat
from vllm_mega.serving.schemas import make_plan

QUESTION = "Which of them is older?"
BOTH = decision_of({"a": 0.6, "b": 0.4})
PLAN = make_plan({"mode": "irag"}, MegaSettings(bank="bank"))


def letter(lora: Any) -> str:
    """The first letters of the memories in a LoRARequest, with their weights."""
    return " ".join(f"{c.adapter[0]}{c.weight:g}" for c in Mixture.from_path(lora.lora_path).components)


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ChatCompletionRequest]]:
    """What vLLM's own handler was asked, with which memories; it answers with their letters."""
    asked: list[tuple[str, ChatCompletionRequest]] = []

    async def create(self: Any, request: ChatCompletionRequest, raw_request: Any = None) -> Any:
        asked.append((letter(self._maybe_get_adapters(request)), request))
        message = SimpleNamespace(content=f"Text of {asked[-1][0]}.")
        return SimpleNamespace(choices=[SimpleNamespace(message=message)])

    monkeypatch.setattr(OpenAIServingChat, "create_chat_completion", create)
    monkeypatch.setattr(MegaChat, "_annotated", staticmethod(lambda answer, value: value))
    return asked


async def test_a_server_recites_each_in_a_request_of_its_own(
    stock: list[tuple[str, ChatCompletionRequest]],
) -> None:
    from vllm_mega.serving.handlers import Call, _calling, to_lora_request

    chat = MegaChat.__new__(MegaChat)
    chat.model_config = SimpleNamespace(max_model_len=400)
    request = ChatCompletionRequest(model="m-mega", messages=[{"role": "user", "content": QUESTION}])
    with _calling(Call("m-mega", to_lora_request(BOTH.mixture))):
        value = await chat._answer(PLAN, BOTH, request, None)
    first, second, last = stock
    assert [used for used, _ in stock[:2]] == ["a1", "b1"]
    assert last[0].split() == ["a0.15625", "b0.09375"], "the answer comes from a quarter of the mixture"
    assert first[1].request_id != second[1].request_id
    assert [r.max_completion_tokens for _, r in (first, second)] == [100, 100]
    assert value["recalled"] == "Text of a1.\n\nText of b1."
    assert last[1].messages[-1]["content"].startswith(f"{value['recalled']}\n\n{QUESTION}")  # type: ignore[index]


async def test_what_a_server_recalls_is_no_part_of_the_template(
    stock: list[tuple[str, ChatCompletionRequest]],
) -> None:
    chat = MegaChat.__new__(MegaChat)
    chat.model_config = SimpleNamespace(max_model_len=400)
    chat.control = frozenset({"Text of a1."})  # as if the first recital spelled one
    request = ChatCompletionRequest(model="m-mega", messages=[{"role": "user", "content": QUESTION}])
    value = await chat._answer(PLAN, BOTH, request, None)
    assert value["recalled"] == "T ext of a1.\n\nText of b1."
    assert stock[-1][1].messages[-1]["content"].startswith(value["recalled"])  # type: ignore[index]


def test_what_is_recalled_offline_is_no_part_of_the_template() -> None:
    llm: Any = MegaLLM.__new__(MegaLLM)
    llm.llm = FakeLLM()
    llm._control = frozenset({"a1."})
    asked = {0: [{"role": "user", "content": QUESTION}]}
    assert llm._recall(asked, [BOTH], False) == {0: "Text of a 1.\n\nText of b1."}


class FakeLLM:
    """Answers with the letters of the memories."""

    def __init__(self) -> None:
        self.llm_engine = None
        self.chat_template = None
        self.model_config = SimpleNamespace(max_model_len=400)
        self.calls: list[list[tuple[str, int, str]]] = []

    def chat(self, messages: Any, sampling: Any, use_tqdm: bool, loras: Any, **_: Any) -> list[Any]:
        self.calls.append(
            [
                (letter(lora), s.max_tokens, m[-1]["content"])
                for lora, s, m in zip(loras, sampling, messages, strict=True)
            ]
        )
        return [SimpleNamespace(outputs=[SimpleNamespace(text=f"Text of {letter(lora)}.")]) for lora in loras]


def test_offline_recites_all_in_one_run() -> None:
    llm: Any = MegaLLM.__new__(MegaLLM)
    llm.llm = FakeLLM()
    one = decision_of({"c": 1.0})
    decisions: list[Decision] = [BOTH, one, BOTH]
    asked = {i: [{"role": "user", "content": f"Question {i}"}] for i in (0, 1)}
    found = llm._recall(asked, decisions, False)
    assert found == {0: "Text of a1.\n\nText of b1.", 1: "Text of c1."}
    assert llm.llm.calls == [
        [("a1", 100, "Question 0"), ("b1", 100, "Question 0"), ("c1", 100, "Question 1")]
    ]
    assert llm._recall({}, decisions, False) == {}
