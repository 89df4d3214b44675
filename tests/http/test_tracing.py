"""Spans of requests with memory, kept in memory; no engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.requests import Request
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.serve.engine.protocol import UsageInfo
from vllm.exceptions import GenerationError

from tests.hook.test_hook import SETTINGS, Checks
from tests.http.fakes import FakeGate
from vllm_mega.http.chat import MegaChat
from vllm_mega.http.completions import MegaCompletion
from vllm_mega.http.measures import MeasuredHook
from vllm_mega.http.tracing import UNTRACED, Traced, Untraced, spans_of

TRACE, CALLER = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
HEADER = f"00-{TRACE:032x}-{CALLER:016x}-01"


class Stock:
    """vLLM's handler: notes which trace it is told, and answers."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.ends: Exception | None = None

    async def create(self, handler: Any, request: Any, raw_request: Any) -> Any:
        headers = {} if raw_request is None else raw_request.headers
        told = await handler._get_trace_headers(headers) or {}
        self.told.append(told.get("traceparent", "")[:-3])  # without flags
        prompts = request.prompt if isinstance(request, CompletionRequest) else ["prompt"]
        fives = [5] * len(prompts)
        handler._route(prompts, fives, fives)
        if self.ends is not None:
            raise self.ends
        if request.stream:
            return self._events()
        message = {"role": "assistant", "content": "What bees do is a secret."}
        usage = UsageInfo(prompt_tokens=1, total_tokens=2, completion_tokens=1)
        return ChatCompletionResponse(model="m", choices=[{"index": 0, "message": message}], usage=usage)

    @staticmethod
    async def _events() -> AsyncGenerator[str, None]:
        yield 'data: {"choices": []}\n\n'
        yield "data: [DONE]\n\n"


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Stock:
    stock = Stock()

    async def create(self: Any, request: Any, raw_request: Any = None) -> Any:
        return await stock.create(self, request, raw_request)

    async def tokens(chat: Any, request: Any) -> int:
        return 0

    monkeypatch.setattr(OpenAIServingChat, "create_chat_completion", create)
    monkeypatch.setattr(OpenAIServingCompletion, "create_completion", create)
    monkeypatch.setattr("vllm_mega.http.chat.chat_tokens", tokens)
    return stock


@pytest.fixture
def kept() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(kept: InMemorySpanExporter) -> Traced:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return Traced(provider)


def handler(spans: Untraced, kind: Any = MegaChat) -> Any:
    made: Any = kind.__new__(kind)
    made.model_config = SimpleNamespace(max_model_len=400)
    made.models = SimpleNamespace(_has_memory=lambda name: name == "m-mega")
    made.engine_client = None
    gate: Any = FakeGate()
    made.mega = MeasuredHook(gate, SETTINGS, 4, Checks().begin)
    made.mega.spans = made.spans = spans
    return made


def chat(question: str, mode: str = "adapter", **more: Any) -> ChatCompletionRequest:
    messages = [{"role": "user", "content": question}]
    body = {"model": "m-mega", "messages": messages, "mega": {"mode": mode}, **more}
    return ChatCompletionRequest.model_validate(body)


def raw(**headers: str) -> Request:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": pairs, "state": {}})


def by_name(kept: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in kept.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def told_of(span: ReadableSpan) -> str:
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}"


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return {name.removeprefix("mega."): value for name, value in (span.attributes or {}).items()}


async def test_gate_and_passes_are_spans_of_the_clients_trace(
    stock: Stock, spans: Traced, kept: InMemorySpanExporter
) -> None:
    await handler(spans).create_chat_completion(chat("bees or goats?", "irag"), raw(traceparent=HEADER))
    found = by_name(kept)
    (request,), (gate,), (answer,) = found["mega.request"], found["mega.gate"], found["mega.answer"]
    recitals = found["mega.recital"]
    assert (len(recitals), len(kept.get_finished_spans())) == (2, 5)
    assert request.parent is not None
    assert (request.parent.span_id, request.parent.trace_id) == (CALLER, TRACE)
    for span in (gate, answer, *recitals):
        assert span.parent is not None
        assert (span.parent.span_id, span.context.trace_id) == (request.context.span_id, TRACE)
    assert attributes(gate) == {"mode": "irag", "route": "memories", "memories": 2}
    assert all(attributes(span) == {"prompts": 1, "mixed": 1, "start": 5} for span in (answer, *recitals))
    # vLLM is told of each pass, and so its own spans are children of these.
    assert set(stock.told) == {told_of(span) for span in (answer, *recitals)}
    assert not any("bees" in span.to_json() for span in kept.get_finished_spans())


async def test_without_a_traceparent_a_request_is_a_trace(
    stock: Stock, spans: Traced, kept: InMemorySpanExporter
) -> None:
    await handler(spans).create_chat_completion(chat("nothing"), raw())
    found = by_name(kept)
    assert found["mega.request"][0].parent is None
    assert len({span.context.trace_id for span in kept.get_finished_spans()}) == 1
    assert stock.told == [told_of(found["mega.answer"][0])]
    assert attributes(found["mega.gate"][0]) == {"mode": "adapter", "route": "null", "memories": 0}
    assert attributes(found["mega.answer"][0])["mixed"] == 0
    await handler(spans).create_chat_completion(chat("nothing"))  # a line of a file has no headers
    assert len(by_name(kept)["mega.request"]) == 2


async def test_a_completion_has_the_same_spans(
    stock: Stock, spans: Traced, kept: InMemorySpanExporter
) -> None:
    body = {"model": "m-mega", "prompt": ["bees", "nothing"]}
    made = handler(spans, MegaCompletion)
    stock.ends = GenerationError("bees are secret")
    with pytest.raises(GenerationError):
        await made.create_completion(CompletionRequest.model_validate(body), raw(traceparent=HEADER))
    found = by_name(kept)
    assert {attributes(gate)["route"] for gate in found["mega.gate"]} == {"memories", "null"}
    assert {span.context.trace_id for spans in found.values() for span in spans} == {TRACE}
    assert attributes(found["mega.answer"][0])["error.type"] == "GenerationError"
    assert not any("bees" in span.to_json() for span in kept.get_finished_spans())


async def test_what_is_refused_says_so_without_the_words(
    stock: Stock, spans: Traced, kept: InMemorySpanExporter
) -> None:
    request = chat("?", "adapter")
    request.mega = {"memories": [{"id": "the-secret"}]}  # type: ignore[attr-defined]
    assert (await handler(spans).create_chat_completion(request, raw())).error.code == 404
    found = by_name(kept)
    assert attributes(found["mega.gate"][0])["route"] == "refused"
    assert attributes(found["mega.request"][0]) == {"error.type": "MemoryNotFoundError"}
    assert not any("secret" in span.to_json() for span in kept.get_finished_spans())


async def test_spans_of_a_stream_end_with_it(stock: Stock, spans: Traced, kept: InMemorySpanExporter) -> None:
    stream = await handler(spans).create_chat_completion(chat("bees", stream=True), raw())
    assert set(by_name(kept)) == {"mega.gate"}
    assert [chunk async for chunk in stream][-1] == "data: [DONE]\n\n"
    assert set(by_name(kept)) == {"mega.gate", "mega.answer", "mega.request"}
    left = await handler(spans).create_chat_completion(chat("bees", stream=True), raw())
    await anext(left)
    await left.aclose()  # the client has gone
    assert len(by_name(kept)["mega.answer"]) == len(by_name(kept)["mega.request"]) == 2


async def test_models_without_memory_are_left_to_vllm(spans: Traced) -> None:
    given = raw(traceparent=HEADER).headers
    assert (await handler(spans)._get_trace_headers(given)) == {"traceparent": HEADER}


async def test_where_vllm_does_not_trace_nothing_is_imported_and_nothing_changes(stock: Stock) -> None:
    def config(endpoint: str | None) -> Any:
        return SimpleNamespace(observability_config=SimpleNamespace(otlp_traces_endpoint=endpoint))

    assert spans_of(config(None)) is UNTRACED
    assert isinstance(spans_of(config("http://127.0.0.1:4317")), Traced)
    program = "import sys, vllm_mega.http.tracing as t; t.UNTRACED; assert 'opentelemetry' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
    await handler(UNTRACED).create_chat_completion(chat("bees"), raw(traceparent=HEADER))
    assert stock.told == [HEADER[:-3]]
