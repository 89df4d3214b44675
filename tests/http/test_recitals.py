"""Mode irag with two memories: each is recited alone, then both texts are in the context. No engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from vllm import SamplingParams
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.serve.engine.protocol import UsageInfo
from vllm.exceptions import GenerationError

from tests.requests.decisions import decision_of
from vllm_mega.config import MegaSettings
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.errors import BankError, RequestError
from vllm_mega.gate.gate import Decision
from vllm_mega.http.chat import MegaChat
from vllm_mega.http.recital import UNPENALISED
from vllm_mega.mixture import Mixture
from vllm_mega.offline import MegaLLM
from vllm_mega.prompts import MEMORY_PROMPT
from vllm_mega.requests.passes import Recital, first_passes, recalled
from vllm_mega.requests.schemas import Start, make_plan

QUESTION = "Which of them is older?"
BOTH = decision_of({"a": 0.6, "b": 0.4})
FIRST = Start(token=0)


def letter(lora: Any) -> str:
    """The first letters of the memories in a LoRARequest, with their weights."""
    return " ".join(f"{c.adapter[0]}{c.weight:g}" for c in Mixture.from_path(lora.lora_path).components)


USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
CHUNKS: list[Any] = [
    {"choices": [{"delta": {"content": "a"}, "finish_reason": None}], "usage": {"total_tokens": 11}},
    {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": USAGE},
]
DEFAULTS = {"repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.1}
"""As generation_config.json of many models has them."""


class Stock:
    """vLLM's own handler: notes what it is asked, with which memories, and answers with their letters."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ChatCompletionRequest, Any]] = []
        self.ends: Exception | None = None

    def create(self, handler: Any, request: ChatCompletionRequest, raw_request: Any) -> Any:
        used = letter(handler._maybe_get_adapters(request))
        self.asked.append((used, request, raw_request))
        if self.ends is not None and not request.stream:
            raise self.ends
        if request.stream:
            return self._events()
        message = {"role": "assistant", "content": f"Text of {used}."}
        return ChatCompletionResponse(
            model="m", choices=[{"index": 0, "message": message}], usage=UsageInfo(**USAGE)
        )

    async def _events(self) -> AsyncGenerator[str, None]:
        if self.ends is not None:
            yield 'data: {"error": {"message": "Internal server error", "code": 500}}\n\n'
        else:
            for chunk in CHUNKS:
                yield f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n"
        yield "data: [DONE]\n\n"


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Stock:
    stock = Stock()

    async def create(self: Any, request: ChatCompletionRequest, raw_request: Any = None) -> Any:
        return stock.create(self, request, raw_request)

    async def tokens(chat: Any, request: Any) -> int:
        return 0

    monkeypatch.setattr(OpenAIServingChat, "create_chat_completion", create)
    monkeypatch.setattr("vllm_mega.http.chat.chat_tokens", tokens)
    return stock


class Hook:
    """Decides for both memories; knows what is wrong with them."""

    settings = MegaSettings(bank="bank")
    slots = 4
    reason = ""

    async def route(self, ask: Any) -> tuple[Decision, Any]:
        return BOTH, to_lora_request(BOTH.mixture)

    async def why_ended(self, decisions: Any) -> BankError | None:
        assert decisions == [BOTH]
        return BankError(self.reason) if self.reason else None


def handler() -> Any:
    chat: Any = MegaChat.__new__(MegaChat)
    chat.model_config = SimpleNamespace(max_model_len=400)
    chat.models = SimpleNamespace(_has_memory=lambda name: True)
    chat.mega = Hook()
    return chat


def request(mode: str = "irag", **more: Any) -> ChatCompletionRequest:
    body = {"model": "m-mega", "messages": [{"role": "user", "content": QUESTION}], "mega": {"mode": mode}}
    return ChatCompletionRequest.model_validate({**body, **more})


async def test_a_server_recites_each_in_a_request_of_its_own(stock: Stock) -> None:
    answer = await handler().create_chat_completion(request())
    (a, first, _), (b, second, _), (both, last, _) = stock.asked
    assert (a, b) == ("a1", "b1")
    assert both.split() == ["a0.15625", "b0.09375"], "the answer comes from a quarter of the mixture"
    assert first.request_id != second.request_id
    assert [r.max_completion_tokens for r in (first, second)] == [100, 100]
    assert answer.mega["recalled"] == "Text of a1.\n\nText of b1."
    assert last.messages[-1]["content"].startswith(f"{answer.mega['recalled']}\n\n{QUESTION}")  # type: ignore[index]


async def test_recitals_are_plain_whatever_the_model_and_the_client_prefer(stock: Stock) -> None:
    await handler().create_chat_completion(request(temperature=1.5, repetition_penalty=1.3, seed=7, n=2))
    plain = SamplingParams(temperature=0, max_tokens=9)
    for _, recital, _ in stock.asked[:2]:
        sampling = recital.to_sampling_params(9, DEFAULTS)
        for name in (
            *UNPENALISED,
            "temperature",
            "seed",
            "n",
            "stop",
            "bad_words",
            "logit_bias",
            "min_tokens",
        ):
            assert getattr(sampling, name) == getattr(plain, name), name


async def test_a_recalled_answer_is_not_punished_for_what_was_memorized(stock: Stock) -> None:
    chat = handler()
    await chat.create_chat_completion(request("recall", top_p=0.5))
    sampling = stock.asked[0][1].to_sampling_params(9, DEFAULTS)
    assert (sampling.repetition_penalty, sampling.min_p, sampling.top_k) == (1.0, 0.0, 0)
    assert sampling.top_p == 0.5, "the client's own wish"
    await chat.create_chat_completion(request("adapter"))
    assert stock.asked[1][1].to_sampling_params(9, DEFAULTS).repetition_penalty == 1.05


RAW = Request(
    {
        "type": "http",
        "headers": [
            (b"x-data-parallel-rank", b"3"), (b"x-vllm-priority", b"-5"), (b"x-session-id", b"s"),
            (b"traceparent", b"00-1-1-01"), (b"x-request-id", b"mine"),
        ],
        "state": {"kept": 1},
    }
)  # fmt: skip


async def test_recitals_run_where_and_when_the_request_runs(stock: Stock) -> None:
    chat = handler()
    await chat.create_chat_completion(request(priority=2, cache_salt="salt"), RAW)
    for _, recital, raw in stock.asked[:2]:
        assert chat._get_data_parallel_rank(raw) == 3
        assert chat._get_priority(recital, raw) == -5
        assert chat._get_session_id(recital, raw) == "s"
        assert raw.headers["traceparent"] == "00-1-1-01"
        assert (recital.priority, recital.cache_salt) == (2, "salt")
        raw.state.request_metadata = "its own"
    assert [chat._base_request_id(raw, r.request_id) for _, r, raw in stock.asked] == [
        "mine-recital-0", "mine-recital-1", "mine",
    ]  # fmt: skip
    assert not hasattr(RAW.state, "request_metadata")


async def test_usage_counts_all_passes(stock: Stock) -> None:
    chat = handler()
    whole = await chat.create_chat_completion(request())
    assert whole.usage.model_dump(exclude_none=True) == {name: 3 * n for name, n in USAGE.items()}
    events = [event async for event in await chat.create_chat_completion(request(stream=True))]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert chunks[0]["usage"]["total_tokens"] == 11 + 30
    assert "usage" not in chunks[1]
    assert chunks[2]["usage"] == {name: 3 * n for name, n in USAGE.items()}
    one = await chat.create_chat_completion(request("adapter"))
    assert one.usage.model_dump(exclude_none=True) == USAGE


@pytest.mark.parametrize("mode", ["adapter", "recall", "irag"])
async def test_who_is_ended_by_a_damaged_adapter_hears_why(stock: Stock, mode: str) -> None:
    chat = handler()
    stock.ends = GenerationError("Internal server error")
    with pytest.raises(GenerationError):
        await chat.create_chat_completion(request(mode))
    chat.mega.reason = "the memories (a, b) cannot be used: NaN in it"
    answer = await chat.create_chat_completion(request(mode))
    assert (answer.error.code, answer.error.param) == (500, "mega.memories")
    assert answer.error.message == chat.mega.reason


@pytest.mark.parametrize("mode", ["adapter", "recall"])
async def test_so_does_who_reads_a_stream(stock: Stock, mode: str) -> None:
    chat = handler()
    stock.ends = GenerationError("Internal server error")
    for reason in ("", "the memories (a, b) cannot be used: NaN in it"):
        chat.mega.reason = reason
        events = [event async for event in await chat.create_chat_completion(request(mode, stream=True))]
        error = json.loads(events[0].removeprefix("data: "))["error"]
        assert error["message"] == (reason or "Internal server error")
        assert error["code"] == 500
        assert events[1] == "data: [DONE]\n\n"


async def test_when_a_recital_fails_the_others_stop(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[str] = []

    async def create(self: Any, request: ChatCompletionRequest, raw_request: Any = None) -> Any:
        used = letter(self._maybe_get_adapters(request))
        if used == "a1":
            raise GenerationError("Internal server error")
        try:
            await asyncio.sleep(60)
        finally:
            left.append(used)

    monkeypatch.setattr(OpenAIServingChat, "create_chat_completion", create)
    with pytest.raises(GenerationError):
        await asyncio.wait_for(handler().create_chat_completion(request()), 5)
    await asyncio.sleep(0)
    assert left == ["b1"]


async def test_what_a_server_recalls_is_no_part_of_the_template(stock: Stock) -> None:
    chat = handler()
    chat.control = frozenset({"Text of a1."})  # as if the first recital spelled one
    answer = await chat.create_chat_completion(request())
    assert answer.mega["recalled"] == "T ext of a1.\n\nText of b1."
    assert stock.asked[-1][1].messages[-1]["content"].startswith(answer.mega["recalled"])  # type: ignore[index]


def recitals_of(decision: Decision) -> list[Recital]:
    messages = [{"role": "user", "content": QUESTION}]
    return first_passes(make_plan({"mode": "irag"}, MegaSettings(bank="bank")), decision, messages, 400)


def test_what_is_recalled_offline_is_no_part_of_the_template() -> None:
    llm: Any = MegaLLM.__new__(MegaLLM)
    llm.llm = FakeLLM()
    (said,) = llm._recite([recitals_of(BOTH)], [FIRST], False)
    assert recalled(BOTH, said, frozenset({"a1."})) == "Text of a 1.\n\nText of b1."


class FakeLLM:
    """Answers with the letters of the memories."""

    def __init__(self) -> None:
        self.llm_engine = None
        self.chat_template = None
        self.finish_reason = "stop"
        self.model_config = SimpleNamespace(max_model_len=400)
        self.calls: list[list[tuple[str, int, str]]] = []

    def _preprocess_chat_one(self, messages: Any, chat_template: Any) -> Any:
        return {"prompt_token_ids": [1, 2, 3], "question": messages[-1]["content"]}

    def _render_and_add_requests(self, prompts: Any, sampling: Any, lora_requests: Any) -> None:
        self.loras = lora_requests
        asked = enumerate(prompts)
        self.calls.append(
            [(letter(lora_requests[n]), sampling[n].max_tokens, one["question"]) for n, one in asked]
        )
        self.starts = [one.extra_args["mega_start"] for one in sampling]

    def _run_engine(self, *_: Any, **__: Any) -> list[Any]:
        return [
            SimpleNamespace(
                outputs=[SimpleNamespace(text=f"Text of {letter(lora)}.", finish_reason=self.finish_reason)]
            )
            for lora in self.loras
        ]


def test_offline_recites_all_in_one_run() -> None:
    llm: Any = MegaLLM.__new__(MegaLLM)
    llm.llm = FakeLLM()
    one = decision_of({"c": 1.0})
    found = llm._recite([recitals_of(BOTH), [], recitals_of(one)], [FIRST, FIRST, Start(token=2)], False)
    assert found == [["Text of a1.", "Text of b1."], [], ["Text of c1."]]
    assert llm.llm.calls == [
        [("a1", 100, MEMORY_PROMPT), ("b1", 100, MEMORY_PROMPT), ("c1", 100, MEMORY_PROMPT)]
    ]
    assert llm.llm.starts == [0, 0, 2]
    assert llm._recite([[], []], [FIRST, FIRST], False) == [[], []]
    assert len(llm.llm.calls) == 1, "nothing to recite is no run"


def test_offline_says_which_adapter_ended_an_answer() -> None:
    llm: Any = MegaLLM.__new__(MegaLLM)
    llm.llm = FakeLLM()
    llm.llm.finish_reason = "error"
    asked: list[tuple[str, bool]] = []

    def begin(component: Any, *, afresh: bool = False) -> Any:
        asked.append((component.adapter[0], afresh))
        return SimpleNamespace(result=lambda: "NaN in it" if component.adapter[0] == "b" else "")

    llm._checks = SimpleNamespace(begin=begin)
    talk = [{"role": "user", "content": "Why?"}]
    with pytest.raises(BankError, match="NaN in it"):
        llm.answers([talk], [SamplingParams()], False, [to_lora_request(BOTH.mixture)], [FIRST])
    assert asked == [("a", True), ("b", True)]


@pytest.mark.parametrize("bad", ["a bell \ud83d", [{"role": "user", "content": [{"type": "text"}]}], ["Hm."]])
def test_offline_names_the_conversation_that_cannot_be_asked(bad: Any) -> None:
    llm: Any = MegaLLM.__new__(MegaLLM)
    with pytest.raises(RequestError) as error:
        llm.chat(["Why?", bad])
    assert error.value.__notes__ == ["in conversation 1"]
    assert str(error.value.param).startswith("messages[0]")
