"""Chats and completions up to the engine's door: real templates and tokenizers, vLLM's own renderer."""

from __future__ import annotations

from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest

from tests.http.fakes import FakeGate
from tests.http.rendering import Asked, Handlers
from tests.requests.decisions import decision_of
from vllm_mega.config import MegaSettings
from vllm_mega.engine.adapters import to_lora_request
from vllm_mega.requests.deciding import NULL_ROUTE, decide

CONTEXT = 2048


class Hook:
    """Decides for two memories, unless the question is about nothing."""

    settings = MegaSettings(bank="bank")
    slots = 4

    async def route(self, ask: Any) -> Any:
        memories = {memory.id: memory.weight for memory in ask.plan.memories or ()} or {"a": 0.6, "b": 0.4}
        nothing = ask.plan.mode == "off" or (ask.text or "").startswith("Nothing")
        decision = NULL_ROUTE if nothing else decision_of(memories)
        return decision, to_lora_request(decision.mixture)

    async def why_ended(self, decisions: Any) -> None:
        return None


class NamingHook:
    """Decides as a gate does that finds names in texts; owls have no adapter."""

    settings = MegaSettings(bank="bank")
    slots = 4

    def __init__(self) -> None:
        self.gate: Any = FakeGate()
        self.gate.pending = {"owls"}

    async def route(self, ask: Any) -> Any:
        (decision,) = decide(self.gate, [ask], self.slots)
        if isinstance(decision, Exception):
            raise decision
        return decision, to_lora_request(decision.mixture)

    async def why_ended(self, decisions: Any) -> None:
        return None


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


async def chat(served: Handlers, messages: Any, mega: Any = None, **more: Any) -> tuple[Any, list[Asked]]:
    """The answer, and what the engine was asked for it."""
    body = {"model": "base-mega", "messages": messages, "max_tokens": 8, "mega": mega, **more}
    served.client.asked.clear()
    served.renders.clear()
    answer = await served.chat.create_chat_completion(ChatCompletionRequest.model_validate(body))
    return answer, list(served.client.asked)


async def complete(served: Handlers, prompt: Any, mega: Any = None, **more: Any) -> tuple[Any, list[Asked]]:
    body = {"model": "base-mega", "prompt": prompt, "max_tokens": 8, "mega": mega, **more}
    served.client.asked.clear()
    answer = await served.completion.create_completion(CompletionRequest.model_validate(body))
    return answer, list(served.client.asked)


def parts(served: Handlers, asked: Asked) -> tuple[str, str]:
    """The text before the start, and from it on."""
    assert asked.start is not None
    ids, tokenizer = asked.prompt["prompt_token_ids"], served.client.renderer.tokenizer
    return tokenizer.decode(ids[: asked.start]), tokenizer.decode(ids[asked.start :])


HEADER = "<|im_start|>user\n"
