"""What vLLM refuses, it refuses before the gate is asked: its own renderer and checks, without an engine."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMError

from tests.http.rendering import handlers
from vllm_mega.config import MegaSettings
from vllm_mega.http.chat import MegaChat
from vllm_mega.http.completions import MegaCompletion
from vllm_mega.requests.deciding import LONG

# vLLM reads the field itself, whenever it answers.
pytestmark = pytest.mark.filterwarnings("ignore:max_tokens is deprecated:DeprecationWarning")
CONTEXT = 512
LIMIT = "maximum context length"
FIVE_MB = "never ending " * 400_000


class AskedError(Exception):
    """The gate was asked; the mixture is of no interest here."""


class Hook:
    """A gate that must not be asked in vain."""

    settings = MegaSettings(bank="bank")
    slots = 4

    async def route(self, ask: Any) -> Any:
        raise AskedError


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    chat, completion, *_ = handlers(Hook(), CONTEXT)
    return {**vars(chat), **vars(completion)}


def handler(kind: type, parts: dict[str, Any]) -> Any:
    made: Any = kind.__new__(kind)
    vars(made).update(parts)
    return made


async def refusal(answer: Any) -> str:
    """Why vLLM refuses, however it says so."""
    try:
        answered = await answer
    except (ValueError, VLLMError) as error:
        return str(error)
    assert isinstance(answered, ErrorResponse)
    return answered.error.message


def chat_request(text: str, mode: str, **more: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return ChatCompletionRequest(model="base-mega", messages=messages, mega={"mode": mode}, **more)


TOOL = {"type": "function", "function": {"name": "buy", "parameters": {}}}


@pytest.mark.parametrize(
    ("mode", "text", "more", "why"),
    [
        ("irag", "Who?", {"n": 0}, "n must be at least 1"),
        ("irag", "Who?", {"max_tokens": CONTEXT + 1}, "max_tokens=513 cannot be greater"),
        ("irag", "Who?", {"max_completion_tokens": 10**9}, "max_completion_tokens=1000000000"),
        ("irag", "Who?", {"temperature": -1.0}, "temperature must be non-negative"),
        ("irag", "Who?", {"logprobs": True, "top_logprobs": 10_000}, "logprobs"),
        ("irag", "Who?", {"logit_bias": {"99999999": 1}}, "vocab"),
        ("irag", "Who?", {"tools": [TOOL], "tool_choice": "required"}, "tool-call-parser"),
        ("irag", "Who? " * 600, {}, LIMIT),
        ("irag", FIVE_MB, {}, LIMIT),
        ("adapter", FIVE_MB, {}, LIMIT),
        ("recall", FIVE_MB, {}, LIMIT),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_answered_is_not_asked_for(
    parts: dict[str, Any], mode: str, text: str, more: Any, why: str, stream: bool
) -> None:
    begin = time.perf_counter()
    request = chat_request(text, mode, stream=stream, **more)
    assert why in await refusal(handler(MegaChat, parts).create_chat_completion(request))
    assert time.perf_counter() - begin < 5, "the gate's tokenizer alone took 16 s"


@pytest.mark.parametrize(
    ("mode", "text"), [("irag", "Who?"), ("adapter", "Who?"), ("adapter", "=" * 2 * LONG)]
)
async def test_what_can_be_answered_is_asked_for_as_it_was(
    parts: dict[str, Any], mode: str, text: str
) -> None:
    request = chat_request(text, mode, max_tokens=8)
    before = request.model_dump()
    with pytest.raises(AskedError):
        await handler(MegaChat, parts).create_chat_completion(request)
    assert request.model_dump() == before


async def test_short_questions_are_not_measured_twice(parts: dict[str, Any]) -> None:
    chat = handler(MegaChat, {**parts, "online_renderer": None})
    with pytest.raises(AskedError):
        await chat.create_chat_completion(chat_request("Who?", "adapter"))


async def test_a_completion_that_no_model_holds(parts: dict[str, Any]) -> None:
    completion = handler(MegaCompletion, parts)
    request = CompletionRequest(model="base-mega", prompt=FIVE_MB)
    assert LIMIT in await refusal(completion.create_completion(request))
    with pytest.raises(AskedError):
        await completion.create_completion(CompletionRequest(model="base-mega", prompt="Who?"))


async def test_a_full_queue_is_told_before_the_gate_works(parts: dict[str, Any]) -> None:
    def full(n: int) -> None:
        raise ValueError("the queue is full")

    client = SimpleNamespace(errored=False, check_admission=full)
    chat = handler(MegaChat, {**parts, "engine_client": client})
    assert await refusal(chat.create_chat_completion(chat_request("Who?", "irag"))) == "the queue is full"
