"""The whole app that vLLM builds, with our routes, over a real catalog, gate and hook: all but the engine.

The same is asked of it twice, in a world where somebody else has memories, and in one where nobody has: what
can be told apart, tells of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.tokenize.serving import ServingTokenization

from tests.http.memories.server import MemoryServer
from tests.http.rendering import Handlers
from tests.http.running_app import build
from vllm_mega.hook.hook import MemoryHook
from vllm_mega.http.handlers import MegaModels
from vllm_mega.http.watch import Watch

_CHANGING = [
    (re.compile(rb'"(mega-|chatcmpl-|cmpl-|modelperm-)?[A-Za-z0-9_-]{22}"'), b'"TOKEN"'),
    (re.compile(rb"(?<=')[A-Za-z0-9_-]{22}(?=')"), b"TOKEN"),
    (re.compile(rb'(?<=\\")[A-Za-z0-9_-]{22}(?=\\)'), b"TOKEN"),  # JSON in a text in JSON
    (re.compile(rb"(chatcmpl|cmpl|modelperm|mcp)-[0-9a-f-]+"), b"ID"),
    (re.compile(rb'"(at|created|created_at|updated_at)":\d+(\.\d+)?'), b'"TIME"'),
    (re.compile(rb"^id: .*$", re.M), b"id: TOKEN"),
]
"""Tokens, which are at random for a bank; ids of answers; times."""
_OF_NO_BODY = {"content-length", "date", "etag"}


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = {}  # noqa: RUF012  # nobody changes it


class Heard(NamedTuple):
    """An answer, without what is another each time."""

    asked: Asked
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class TwoKeysServer:
    """An app, and two keys of it: alice's for the namespace land, bob's for sea."""

    def __init__(self, folder: Path, served: Handlers, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.memories = MemoryServer(folder, keys=True)
        self.alice, self.bob = (
            self.memories.key("alice", "write", "land"),
            self.memories.key("bob", "write", "sea"),
        )
        settings = {"bank": str(self.memories.bank), "max_requests": 64, "keys": str(folder / "keys.json")}
        self.app = build(monkeypatch, settings=json.dumps({"mega": settings}))
        service = self.memories.service
        hook = MemoryHook(service.gate, service.settings, 4, _good)
        models = OpenAIServingModels(served.client, [BaseModelPath("base", "base")])
        models.__class__, models.bank = MegaModels, self.memories.bank
        for handler in (served.chat, served.completion):
            handler.mega, handler.models = hook, models
        state = self.app.state
        state.mega_memories, state.mega_watch = service, Watch(service.gate.library)
        state.openai_serving_chat, state.openai_serving_completion = served.chat, served.completion
        state.openai_serving_models, state.engine_client = models, served.client
        renderer, plain = served.chat.online_renderer, {"chat_template_content_format": "auto"}
        state.serving_tokenization = ServingTokenization(models, renderer, chat_template=None, **plain)
        state.anthropic_serving_messages = AnthropicServingMessages(
            served.client, models, "assistant", online_renderer=renderer, request_logger=None,
            chat_template=None, **plain,
        )  # fmt: skip

    async def hear(self, key: dict[str, str], requests: Sequence[Asked]) -> list[Heard]:
        """The answers, in order."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=key) as client:
            return [
                _heard(one, await client.request(one.method, one.path, json=one.body, headers=one.headers))
                for one in requests
            ]

    def close(self) -> None:
        self.memories.close()


def _good(component: Any, *, afresh: bool = False) -> Future[str]:
    """Every adapter is."""
    found: Future[str] = Future()
    found.set_result("")
    return found


def _heard(asked: Asked, answer: httpx.Response) -> Heard:
    body = answer.content
    for pattern, instead in _CHANGING:
        body = pattern.sub(instead, body)
    headers = sorted((name, value) for name, value in answer.headers.items() if name not in _OF_NO_BODY)
    return Heard(asked, answer.status_code, tuple(headers), body)
