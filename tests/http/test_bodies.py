"""vLLM's own application with our middleware, without an engine: bad bodies are a client's fault."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from vllm.entrypoints.openai.completion.protocol import CompletionResponse

from tests.http import running_app
from vllm_mega.http import endpoints

ROUTES = ["/v1/chat/completions", "/v1/completions", "/invocations", "/v1/messages", "/tokenize"]
GOOD = {"model": "m", "messages": [{"role": "user", "content": "Who oils the weathercock?"}]}
BAD = {
    "invalid UTF-8": b'{"model": "m", "prompt": "\xff"}',
    "a lone surrogate": json.dumps({**GOOD, "prompt": "\ud83d"}).encode(),
    "a lone surrogate in a name": json.dumps({**GOOD, "logit_bias": {"\ud83d": "x"}}).encode(),
    "in a name of ours": json.dumps({**GOOD, "mega": {"\ud83d": "x"}}).encode(),
    "UTF-16": json.dumps(GOOD).encode("utf-16"),
    "deep": b'{"model": "m", "messages": ' + b"[" * 900 + b"]" * 900 + b"}",
    "very deep": b'{"model": "m", "messages": ' + b"[" * 90_000 + b"]" * 90_000 + b"}",
}


class Echo:
    """A handler that answers with the prompt that it got."""

    async def create_completion(self, request: Any, raw_request: Any) -> CompletionResponse:
        return CompletionResponse(model=request.prompt, choices=[], usage={})


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    settings = json.dumps({"mega": {"bank": "bank", "max_requests": 8}})
    app = running_app.build(monkeypatch, "--api-key", "spindle", settings=settings)
    assert any(m.cls is endpoints.CheckedBodies for m in app.user_middleware)
    app.state.openai_serving_completion = Echo()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Content-Type": "application/json", "Authorization": "Bearer spindle"}
    async with httpx.AsyncClient(transport=transport, base_url="http://m", headers=headers) as client:
        yield client


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_body_is_the_fault_of_its_client(
    client: httpx.AsyncClient, route: str, kind: str
) -> None:
    for headers in ({}, {"Content-Type": "application/json; charset=utf-8"}):
        answer = await client.post(route, content=BAD[kind], headers=headers)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"], answer.text


async def test_a_good_body_arrives(client: httpx.AsyncClient) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for byte in json.dumps({"model": "m", "prompt": "owl \U0001f989"}).encode():
            yield bytes([byte])

    answer = await client.post("/v1/completions", content=parts())
    assert (answer.status_code, answer.json()["model"]) == (200, "owl \U0001f989")


async def test_nobody_without_a_key_has_a_body_read(client: httpx.AsyncClient) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    answer = await client.post("/v1/completions", content=BAD["deep"], headers=wrong)
    assert answer.status_code == 401


async def test_other_bodies_are_not_looked_at(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/completions", content=b"\xff", headers={"Content-Type": "text/plain"})
    assert answer.json()["error"]["param"] != "body"
